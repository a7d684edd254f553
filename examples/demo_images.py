"""The whole workflow on rendered images: distil a small image model, fine-tune it, test it, use it.

Renders ShapeImages (twelve classes: six shapes, filled or striped) as PNG files in class folders, and does with them
what `demo.py` does with videos, by the same code and with the same three arms: an image is a clip of one frame.

python examples/demo_images.py --output_dir demo_images_output
"""

from __future__ import annotations

from dataclasses import dataclass, field

from amd_hf.options.programs import run_program
from examples import demo
from examples.shape_images import SHAPE_CLASSES, write_shape_images


@dataclass
class ImageDemoOptions(demo.DemoOptions):
    """Where everything goes, and how large it is."""

    output_dir: str = field(default="demo_images_output", metadata={"help": "Everything is written here."})
    num_unlabelled: int = field(default=4000, metadata={"help": "Images to pre-train on."})
    num_labelled: int = field(default=480, metadata={"help": "Images to fine-tune on."})
    num_validation: int = field(default=480, metadata={"help": "Images to test on."})


class ImageDemo(demo.Demo):
    """The stages of the demo, on images."""

    program = "demo_images.py"
    recipe_prefix = "image_"
    class_names = SHAPE_CLASSES
    media = "image"
    examples = "*/*.png"
    controls = {}

    def write_split(self, split: str, size: int, seed: int) -> None:
        write_shape_images(self.data, split, size, seed=seed, labelled=split != "unlabelled")


if __name__ == "__main__":
    run_program(lambda: demo.main(None, ImageDemo, ImageDemoOptions, __doc__))
