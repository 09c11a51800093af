"""The fused ops, one file a family, all registered when this package is imported.

Their public functions are the names of :mod:`fastadv`.
"""

from fastadv.ops import public as public
