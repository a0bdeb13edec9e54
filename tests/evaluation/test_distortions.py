"""Which distortions a text names, sentence by sentence."""

import pytest

from vqathinker_jax.evaluation.distortions import attribute

SENTENCES = [
    # denied
    ("There is no noise in the video.", ""),
    ("The video is free of blur and artifacts.", ""),
    ("It is noise-free.", ""),
    ("No noise, blur or artifacts are visible.", ""),
    ("No significant blurring, noise, or compression artifacts that detract from it.", ""),
    ("The video does not appear blurry.", ""),
    ("I would not say it is noisy.", ""),
    ("Compression artifacts are minimal.", ""),
    ("It's not overexposed.", ""),
    ("There is little noise.", ""),
    ("The motion is smooth with no flickering, stuttering or shaking.", ""),
    ("No blur, no noise and no flicker.", ""),
    ("Neither blur nor noise is present.", ""),
    # good things
    ("The video is sharp, clear and vibrant. The footage is stable.", ""),
    ("There is no loss of sharpness.", ""),
    ("", ""),
    # denied good things
    ("It isn't sharp.", "blur"),
    ("Lacks clarity and sharpness.", "blur"),
    ("The movement isn't smooth.", "temporal"),
    # word forms and synonyms
    ("The image suffers from blockiness and pixelation.", "artifact"),
    ("Underexposed and grainy footage.", "color noise"),
    ("The picture judders, with ringing around edges.", "artifact temporal"),
    ("The colors look washed out and the focus is soft.", "color blur"),
    ("There is a little noise.", "noise"),
    # what is a defect by its degree alone, as the nano model says it
    ("The video shows moderate color, mild exposure and strong shuffle.", "color temporal"),
    ("The video shows severe compression and slight downscaling.", "artifact blur"),
    ("Wrong color is moderate. Bad exposure is mild. Shuffle is strong.", "color temporal"),
    ("Frame drop is slight. Banding is severe. Jitter is mild.", "artifact temporal"),
    ("Noise is mild. Freeze is slight. Blur is strong.", "noise blur temporal"),
    ("Compression is severe. Downscaling is slight.", "artifact blur"),
    ("Color is strong. The exposure is moderate. The compression is slight.", ""),
    ("The video shows no distortion.", ""),
    ("Strong color contrast and a moderate exposure time.", ""),
    ("Strong colors, good exposure, efficient compression; people shuffle past.", ""),
    ("The colors show greenish casts.", "color"),
    # the end of a denial's reach
    ("There is no noise, the image is blurry.", "blur"),
    ("No noise, but it is slightly blurry and the camera shakes.", "blur temporal"),
    ("Noise is not noticeable, but colors look muted.", "color"),
    ("Without any visible noise or grain, and the frame rate is choppy.", "temporal"),
    ("There is no flicker. Noise is strong.", "noise"),
    # two denials
    ("The picture is not free of noise.", "noise"),
    ("It is not without artifacts.", "artifact"),
    ("Not only is there noise but also flicker.", "noise temporal"),
]


@pytest.mark.parametrize(("text", "names"), SENTENCES)
def test_sentences(text, names):
    assert " ".join(attribute(text).named) == names


def test_a_whole_reasoning():
    text = (
        "<think>The camera seems handheld, as there’s some slight motion blur and unsteadiness. "
        "The lighting is adequate, with some areas appearing darker. There is visible grain, and "
        "compression artifacts in the sky.</think><answer>2.23</answer>"
    )
    made = attribute(text)
    assert made.named == ("color", "noise", "artifact", "blur", "temporal")
    assert made.evidence["blur"] == "slight motion blur"
    assert set(made.evidence) == set(made.named)


def test_long_texts_take_no_time():
    assert attribute("no noise and " * 5000).named == ()
    assert attribute("the the " * 20000 + "blur").named == ("blur",)
    assert attribute("blurs " * 20000).named == ("blur",)
