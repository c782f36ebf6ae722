import io
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from sfi_ray.report.rounds.curves import roc_curves
from sfi_ray.rounds.detection import detect
from sfi_ray.rounds.experiment import TrialResults

DETECTORS = ("msp", "energy", "knn", "few_colours", "one that nobody knows")


def trial_with(num_models, kinds=("sfi", "single_colour"), name="paper"):
    rng = np.random.default_rng(0)
    detections = {
        number: [
            detect(detector, kind, rng.normal(at, 1, 40), rng.normal(0, 1, 90))
            for at, detector in enumerate(DETECTORS)
            for kind in kinds
        ]
        for number in range(num_models)
    }
    return TrialResults(name, num_models, (), (), detections, is_complete=True)


@pytest.mark.parametrize("num_models", [1, 5, 7])
def test_every_model_has_a_panel_and_every_detector_a_name(num_models):
    files = roc_curves(trial_with(num_models, name="a $ trial"))
    assert set(files) == {".png", ".svg"}
    assert Image.open(io.BytesIO(files[".png"])).width > 600
    drawn = ET.fromstring(files[".svg"])
    panels = [node for node in drawn.iter() if node.get("id", "").startswith("axes_")]
    assert len([panel for panel in panels if len(panel)]) >= num_models
    assert roc_curves(trial_with(num_models, name="a $ trial")) == files


def test_without_sfis_there_is_no_picture():
    assert roc_curves(trial_with(2, kinds=("single_colour",))) == {}
    assert roc_curves(TrialResults("paper", 2, (), (), {0: []}, is_complete=False)) == {}
