"""Time and memory of AVA's frame mAP at the full size of the validation set, on random data.

python benchmarks/ava_map.py          # 57,000 key frames, 300,000 boxes x 80 scores

Prints one line for the `evaluate.Metric` (rows through Arrow) and one for the numbers alone (what the test of a
detector uses), with the peak of the process' memory so far. Everything runs on one thread: processor time is what the
clock shows on a quiet machine, and what counts here. Exit code 1 above 120 seconds or 6 GB.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time

import numpy as np

from amd_hf.detection.evaluation import DetectionResult
from amd_hf.detection.mean_average_precision import FrameMeanAveragePrecision
from amd_hf.export.measuring import peak_mebibytes


_LIMIT_SECONDS, _LIMIT_BYTES = 120, 6e9


def random_outcomes(num_frames: int, num_boxes: int, num_classes: int, seed: int = 0) -> list[dict]:
    """Outcomes of a test as a detector makes them: boxes near true ones, a score for each class."""
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(num_boxes, np.full(num_frames, 1 / num_frames))
    outcomes = []
    for number, count in enumerate(counts):
        corners = rng.uniform(0, 0.6, (count, 2))
        true = np.concatenate([corners, corners + rng.uniform(0.1, 0.4, (count, 2))], axis=1)
        outcomes.append(
            {
                "video_id": f"movie{number // 897:03d},{902 + number % 897:04d}",
                "test_boxes": true + rng.normal(0, 0.02, true.shape),
                "scores": rng.random((count, num_classes), dtype=np.float32),
                "boxes": true,
                "actions": [rng.choice(num_classes, 3, replace=False).tolist() for _ in range(count)],
            }
        )
    return outcomes


def run_metric(outcomes: list[dict], num_classes: int) -> dict:
    """The metric fed in batches over a file, as several processes would."""
    with tempfile.TemporaryDirectory() as folder:
        metric = FrameMeanAveragePrecision(cache_dir=folder)
        for start in range(0, len(outcomes), 64):
            batch = outcomes[start : start + 64]
            metric.add_batch(
                predictions=[
                    {"key_frame": o["video_id"], "boxes": o["test_boxes"], "scores": o["scores"]} for o in batch
                ],
                references=[{"boxes": o["boxes"], "actions": o["actions"]} for o in batch],
            )
        return metric.compute(class_names={number: str(number) for number in range(num_classes)})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=57_000)
    parser.add_argument("--boxes", type=int, default=300_000)
    parser.add_argument("--classes", type=int, default=80)
    options = parser.parse_args()
    outcomes = random_outcomes(options.frames, options.boxes, options.classes)
    names = [str(number) for number in range(options.classes)]
    runs = {
        "numbers alone": lambda: DetectionResult(outcomes, names).average_precisions(),
        "evaluate.Metric": lambda: run_metric(outcomes, options.classes),
    }
    worst, means = 0.0, set()
    for name, run in runs.items():
        start, start_cpu = time.perf_counter(), time.process_time()
        found = run()
        wall, seconds = time.perf_counter() - start, time.process_time() - start_cpu
        worst, means = max(worst, seconds), means | {round(found["map"], 12)}
        peak = peak_mebibytes() * 2**20
        print(
            f"{name:>16}: {seconds:6.1f} s of one core ({wall:.1f} s by the clock), "
            f"peak memory {peak / 1e9:.2f} GB, mAP {found['map']:.6f}",
            flush=True,
        )
    is_within = worst <= _LIMIT_SECONDS and peak <= _LIMIT_BYTES and len(means) == 1
    print("within the limits" if is_within else "ABOVE the limits, or not the same mAP")
    return 0 if is_within else 1


if __name__ == "__main__":
    sys.exit(main())
