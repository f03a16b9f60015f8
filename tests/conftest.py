from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Browser

# One thread a worker: xdist fills the cores, and sums round alike on every machine.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder of real images beside the project, for local tests only."""
    folder = Path(__file__).parents[2] / "shared" / "real"
    if not folder.is_dir():
        pytest.skip("no real data beside the project")
    return folder


@pytest.fixture(scope="session")
def field_cases() -> Path:
    """The folder of small inputs from the field beside the project, for local tests only."""
    folder = Path(__file__).parents[2] / "shared" / "field_cases"
    if not folder.is_dir():
        pytest.skip("no field cases beside the project")
    return folder


@pytest.fixture
def anyio_backend() -> str:
    """What tests marked anyio run on."""
    return "asyncio"


@pytest.fixture
def cuda() -> str:
    """The device, for tests marked gpu."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    return "cuda"


@pytest.fixture
def three_threads() -> Iterator[None]:
    """Another number of torch's threads than a search or a core takes."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium for a module's tests. While open, its event loop blocks tests marked anyio."""
    from page_harness import launched

    with launched() as chromium:
        yield chromium
