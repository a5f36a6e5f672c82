"""Stand-in for Prisma's client, which the product's image has: LiteLLM asks for its exceptions whenever it refuses a key,
and answers 500 instead of 401 when the module is missing.
"""

from . import errors

__all__ = ["errors"]
