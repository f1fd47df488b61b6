"""Strict modes. (Do not import l2o here: it would escape the run-time type checking that pytest turns on later.)"""

import atexit
import dataclasses
import os
import platform
import tempfile
from pathlib import Path

# What one test has compiled, another, or a process that it starts, need not compile again. xdist's workers share the folder.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    cache = tempfile.TemporaryDirectory(prefix="l2o-tests-", ignore_cleanup_errors=True)
    atexit.register(cache.cleanup)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = cache.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

if not hasattr(jax, "enable_x64"):  # its name before JAX 0.8
    import jax.experimental

    jax.enable_x64 = jax.experimental.enable_x64


# Unoptimized; loops written in the older of XLA's two ways, without MLIR; in one piece, as cutting small programs costs more than
# it brings. The older way fuses a product and a sum where a processor can, in one program and not in another that should give
# the same bits: so for a processor that cannot.
QUICK = [
    "--xla_backend_optimization_level=0",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
    *(["--xla_cpu_max_isa=AVX"] if platform.machine() in ("x86_64", "AMD64") else []),
]


def pytest_configure(config):
    """Chooses how well XLA optimizes, before its first use.

    Compiling is what the quick tests spend their time on, and QUICK takes a fraction of it. The others run as a user's programs
    do: levels 1 and 2 have been seen to give wrong gradients (experiments/LOG.md). So do the processes that tests start.
    """
    flags = os.environ.get("XLA_FLAGS")
    if config.option.markexpr == "not slow" and flags is None:
        os.environ["XLA_FLAGS"] = " ".join(QUICK)
    jax.devices()  # the flags are read here
    os.environ.pop("XLA_FLAGS", None)


@pytest.fixture(autouse=True, scope="module")
def few_memory_maps():
    """Every compiled program holds some memory maps; where Linux runs out of them (65,530) XLA dies of a segmentation fault."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()


@pytest.fixture
def one_thread():
    """Of PyTorch's. Tiny tensors, shared cores: threads that wait for each other only slow it down."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def x64():
    """Double precision, where two routes to one number agree to many digits or not at all."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def places(monkeypatch, tmp_path):
    """Empty places to look in, and no way out to the network."""
    from l2o.io.data._sources import SOURCES

    monkeypatch.setenv("L2O_DATA", str(tmp_path / "user"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name, source in SOURCES.items():
        offline = dataclasses.replace(source, url="http://127.0.0.1:9/", system_folder=tmp_path / "system")
        monkeypatch.setitem(SOURCES, name, offline)
    return tmp_path
