"""The notebook's training: torchvision data set, ToTensor, Normalize, DataLoader, Adam."""

from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, kernel_size=3, padding=1)
        self.pool = nn.MaxPool2d(2, 2)
        self.fc1 = nn.Linear(64 * 7 * 7, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = x.view(-1, 64 * 7 * 7)
        x = F.relu(self.fc1(x))
        outputs: Tensor = self.fc2(x)
        return outputs


def load(raw: Path, folder: Path, train: bool) -> datasets.MNIST:
    """Return torchvision's data set, over a link to the IDX files where it expects them."""
    target = folder / "MNIST" / "raw"
    if not target.exists():
        target.parent.mkdir(parents=True)
        target.symlink_to(raw.resolve())
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))])
    return datasets.MNIST(folder, train=train, transform=transform)


def train(
    data: datasets.MNIST, images: int | None, epochs: int, seed: int
) -> Iterator[tuple[float, Net]]:
    """Train on all images or the first `images`; yield each epoch's seconds and the network."""
    torch.manual_seed(seed)
    dataset = Subset(data, range(images)) if images else data
    loader = DataLoader(dataset, batch_size=64, shuffle=True)
    net, criterion = Net(), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.001)
    for _ in range(epochs):
        start, running_loss = perf_counter(), 0.0
        for inputs, labels in loader:
            optimizer.zero_grad()
            outputs = net(inputs)
            loss = criterion(outputs, labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item()
        yield perf_counter() - start, net


def accuracy(net: Net, data: datasets.MNIST) -> float:
    correct = 0
    with torch.no_grad():
        for images, labels in DataLoader(data, batch_size=1000):
            correct += int((net(images).argmax(1) == labels).sum())
    return correct / len(data)
