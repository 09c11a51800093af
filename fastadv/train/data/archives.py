"""The archives that `fastadv data` fetches: their official address, their published md5, and the folder they hold."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Archive:
    url: str
    md5: str
    folder: str

    @property
    def file(self) -> str:
        """What the archive is called on disk, whatever address it comes from."""
        return self.url.rpartition("/")[2]


ARCHIVES = {
    "cifar10": Archive(
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        md5="c58f30108f718f92721af3b95e74349a",
        folder="cifar-10-batches-py",
    ),
    "cifar100": Archive(
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        md5="eb9058c3a382ffc7106e4002c42a8d85",
        folder="cifar-100-python",
    ),
    "tiny-imagenet": Archive(
        "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        md5="90528d7ca1a48142e341f4ef8d21d0de",
        folder="tiny-imagenet-200",
    ),
}
