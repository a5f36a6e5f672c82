"""See prisma.errors."""

from ..errors import PrismaError


class EngineConnectionError(PrismaError): ...
