"""Other libraries on our ops, one module a library. Each is imported only when its function is called."""

from fastadv.integrations import torchattacks as torchattacks
