"""The files that the stages hand on, relative to the folder of dvc.yaml.

dvc.yaml declares them as outputs, except OWN and CHECKPOINTS. DVC deletes a stage's outputs before
it runs the stage, and a checkpoint must survive that.
"""

from pathlib import Path

RAW = Path("data/raw")  # the folder of the IDX files
OWN = Path("data/own")  # the folder of the batches of own images; no output of a stage
TRAIN = Path("data/tensors/train.safetensors")
VALIDATION = Path("data/tensors/validation.safetensors")
TEST = Path("data/tensors/test.safetensors")
OWN_TRAIN = Path("data/tensors/own_train.safetensors")
OWN_VALIDATION = Path("data/tensors/own_validation.safetensors")
OWN_TEST = Path("data/tensors/own_test.safetensors")
DATA_COUNTS = Path("reports/data.json")  # images by source, split and class
MODEL = Path("models/model.safetensors")
HISTORY = Path("reports/history.csv")  # one row for each epoch
RECEIPT = Path("reports/receipt.json")  # the machine and the versions that made the model
METRICS = Path("reports/metrics.json")
PREDICTIONS = Path("reports/predictions.csv")  # one row for each test image
RELIABILITY = Path("reports/reliability.csv")  # accuracy by confidence
LAYERS = Path("reports/layers.safetensors")  # what each layer computes for some test images
REPORT = Path("reports/index.html")
MISTAKES = Path("reports/mistakes.png")

CHECKPOINTS = Path(".checkpoints")  # the folder of unfinished trainings
