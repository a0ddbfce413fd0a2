"""Two small domains on disk, and settings under which an experiment takes a second."""

import pytest

from vetdino.downstream.ultrasound.config import CosegmentConfig
from vetdino.downstream.ultrasound.domains import read_domains


@pytest.fixture(scope="session")
def quick():
    """Settings for every experiment: small input, few clusters, few resamples."""
    return {"short": 48, "resamples": 50, "cosegment": CosegmentConfig(clusters=4, tries=1)}


@pytest.fixture(scope="session")
def domains(tmp_path_factory, drawn):
    """Two domains, arm and leg, of five and six frames that differ in the part of the body."""
    root = tmp_path_factory.mktemp("domains")
    drawn(root / "arm", 5, seed=1), drawn(root / "leg", 6, seed=2, height=56)
    (root / "domains.csv").write_text(
        "domain,folder,subject,device,body_part\narm,arm,s1,d1,arm\nleg,leg,s1,d1,leg\n"
    )
    return read_domains(root)
