"""Any network as a supernet: `ms.convert`."""

from manyshot.conversion.attributes import register
from manyshot.conversion.convert import convert
from manyshot.conversion.converter import ConversionError
from manyshot.nn.converted import Conversion, Converted, Kept

__all__ = ["Conversion", "ConversionError", "Converted", "Kept", "convert", "register"]
