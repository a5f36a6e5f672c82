"""The names that LiteLLM compares with; nothing here ever raises them."""


class PrismaError(Exception):
    """Base of all."""


class DataError(PrismaError):
    """Base of what the database refuses."""

    code = ""


class UniqueViolationError(DataError): ...


class ForeignKeyViolationError(DataError): ...


class MissingRequiredValueError(DataError): ...


class RawQueryError(DataError): ...


class TableNotFoundError(DataError): ...


class RecordNotFoundError(DataError): ...


class ClientNotConnectedError(PrismaError): ...


class HTTPClientClosedError(PrismaError): ...
