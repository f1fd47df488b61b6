"""The site: `make docs`. Its pages are docs/*.md; docs/make_*.py write those of the API, the tutorials and the cards."""

import re
import sys
from pathlib import Path

import latex2mathml.converter
from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform

import l2o

sys.path.insert(0, str(Path(__file__).parent))

project = "l2o"
author = "The l2o developers"
copyright = "The l2o developers, Apache-2.0"
version = release = l2o.__version__

extensions = ["myst_parser", "sphinx_copybutton"]
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
myst_dmath_double_inline = True
exclude_patterns = ["_build", "quickstart_table.md"]
copybutton_exclude = ".linenos, .gp, .go"
nitpicky = True

html_theme = "furo"
html_title = "l2o"
html_static_path = ["_static"]
html_css_files = ["l2o.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}


def _write_cards():
    """docs/cards: the card of every shipped rule, as it is in the package."""
    folder = Path(__file__).parent / "cards"
    folder.mkdir(exist_ok=True)
    names = l2o.pretrained.names()
    listed = "\n".join(f"- [{name}]({name}.md)" for name in names)
    texts = {name: l2o.pretrained.describe(name) for name in names}
    texts["index"] = (
        "# Cards of the shipped rules\n\n"
        "A card says what a rule was meta-trained on, where it wins, where it loses, and what it costs. "
        f"In the shell: `l2o pretrained NAME`.\n\n{listed}\n\n```{{toctree}}\n:hidden:\n\n"
        + "\n".join(names)
        + "\n```\n"
    )
    for name, text in texts.items():
        page = folder / f"{name}.md"
        if not page.is_file() or page.read_text() != text:
            page.write_text(text)


def _mathml(self, node, display):
    """Formulas as MathML: they are there without a network, and without a script."""
    text = node.astext()
    self.body.append(latex2mathml.converter.convert(text, display=display))
    raise nodes.SkipNode


class LinkNames(SphinxPostTransform):
    """Names of the API, where a page has them in code, lead to what the API says of them."""

    default_priority = 5

    def run(self, **kwargs):
        found = self.app.env.domains["std"].anonlabels
        for literal in list(self.document.findall(nodes.literal)):
            name = re.match(r"l2o(\.\w+)+", literal.astext())
            capital = name and name[0].rpartition(".")[2][0].isupper()
            target = name and found.get(name[0].lower() + ("-class" if capital else ""))
            if not target or isinstance(literal.parent, nodes.reference | nodes.title):
                continue
            page, anchor = target
            uri = self.app.builder.get_relative_uri(self.env.docname, page) + f"#{anchor}"
            link = nodes.reference("", "", literal.deepcopy(), internal=True, refuri=uri)
            literal.replace_self(link)


def setup(app):
    _write_cards()
    app.add_post_transform(LinkNames)
    app.add_html_math_renderer(
        "mathml",
        inline_renderers=(lambda self, node: _mathml(self, node, "inline"), None),
        block_renderers=(lambda self, node: _mathml(self, node, "block"), None),
    )
    app.config.html_math_renderer = "mathml"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
