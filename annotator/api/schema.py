"""The finishing touch on the OpenAPI document, and its page."""

from typing import Any

from drf_spectacular.openapi import AutoSchema

REFUSAL = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message"],
            "properties": {
                "code": {"type": "string", "description": "stable; for programs"},
                "message": {"type": "string", "description": "a sentence for people; may change"},
                "fields": {
                    "type": "object",
                    "additionalProperties": {"type": "string"},
                    "description": "what was wrong with which part of the request",
                },
            },
        }
    },
}


class SummarisedSchema(AutoSchema):
    """Shows the first sentence of each docstring beside the address, where a reader looks for what to call next."""

    def get_summary(self) -> str:
        """The first sentence, without its full stop."""
        return self.get_description().partition(". ")[0].splitlines()[0].rstrip(".")


def add_refusals(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Say once, and at every operation, what a refusal looks like."""
    result.setdefault("components", {}).setdefault("schemas", {})["Refusal"] = REFUSAL
    answer = {
        "description": "Refused: 401 not logged in, 403 role too low, 404 not there or not yours, 409 somebody else"
        " was first, 422 the request does not fit",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Refusal"}}},
    }
    for operations in result["paths"].values():
        for operation in operations.values():
            operation["responses"]["default"] = answer
    return result
