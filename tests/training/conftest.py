"""Datasets for the trainers, made once for all tests of a process; none of them changes a file."""

import pytest
from challenge_names import INTERACTIVE, MULTICLASS, STSR
from toy_training import make_dataset

CLICK_NETWORK = "nnunetv2.nets.UMambaBot2_CrossAttn_Click2"


@pytest.fixture(scope="session")
def multiclass(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("multiclass"), MULTICLASS)


@pytest.fixture(scope="session")
def interactive(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("interactive"), INTERACTIVE, CLICK_NETWORK)


@pytest.fixture(scope="session")
def stsr(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("stsr"), STSR)


@pytest.fixture
def no_plots(monkeypatch):
    """nnU-Net's figure takes seconds; `test_processes` draws it in its own process."""
    from nnunetv2.training.logging.nnunet_logger import MetaLogger

    monkeypatch.setattr(MetaLogger, "plot_progress_png", lambda *_: None)
