"""A report's page, read back."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """Elements and attributes of a page, the text of its scripts, and the rows of its tables."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.scripts, self.open, self.shown, self.tables = [], {}, [], "", {}
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)
        if tag == "script":
            self.scripts[len(self.scripts)] = ""
        if tag == "table":
            self.rows = self.tables.setdefault(len(self.tables), [])
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "script" in self.open:
            self.scripts[len(self.scripts) - 1] += data
        elif "style" not in self.open:
            self.shown += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data if "small" not in self.open else f" {data}"
