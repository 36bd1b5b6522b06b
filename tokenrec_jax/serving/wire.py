"""JSON bodies, in and out, with their limits. What they mean is in `app.py`. Read `RecommendationRequest`."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

MAX_K = 256
MAX_HISTORY = 1_000
MAX_FILTER = 1_000
MAX_INTERACTIONS = 1_000
MAX_ITEMS = 1_000
MAX_ATTRIBUTES = 256
#: Letters; of a longer one only the beginning would be read.
MAX_TEXT = 4_000
MAX_ID = 256
#: Seconds; what is later are milliseconds that someone took for seconds.
MAX_TIMESTAMP = 100_000_000_000

Id = Annotated[str, StringConstraints(min_length=1, max_length=MAX_ID)]
Title = Annotated[str | None, Field(max_length=1_000, description="Name of a new item.")]


class _In(BaseModel):
    """A body that must be exactly as described: no unknown fields, no numbers in quotes."""

    model_config = ConfigDict(extra="forbid", strict=True)


class RecommendationRequest(_In):
    """Asks for items for a known user, or for anybody with a history of known items."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["user"]}, {"required": ["history"]}]})

    user: Annotated[Id | None, Field(description="A known user.")] = None
    history: Annotated[
        list[Id] | None, Field(min_length=1, max_length=MAX_HISTORY, description="Known items, oldest first.")
    ] = None
    k: Annotated[int, Field(ge=1, le=MAX_K, description="How many items.")] = 10
    exclude_seen: Annotated[bool, Field(description="Leave out the items of the history.")] = True
    filter: Annotated[
        list[Id] | None, Field(min_length=1, max_length=MAX_FILTER, description="Only these items may be recommended.")
    ] = None

    @model_validator(mode="after")
    def _one_of_both(self) -> "RecommendationRequest":
        if (self.user is None) == (self.history is None):
            raise ValueError("give either user or history")
        return self


class Item(BaseModel):
    """An item."""

    item: str
    title: Annotated[str, Field(description='"" where none is known.')]


class Recommended(Item):
    """A recommended item."""

    score: Annotated[float, Field(description="The higher, the better; comparable within one answer only.")]


class Recommendations(BaseModel):
    """Best first; fewer than k where the catalogue has no more."""

    recommendations: list[Recommended]


class Neighbour(Item):
    """An item of the history beside a recommended one."""

    similarity: Annotated[float, Field(description="Cosine of the two items where queries live.")]
    shared_codes: Annotated[list[bool], Field(description="Whether both have the same code, one a book.")]


class Explanation(Item):
    """How an item relates to what a user did."""

    user: str
    score: Annotated[float, Field(description="Cosine between the user's query and the item.")]
    codes: Annotated[list[int], Field(description="Codes of the item, one a book.")]
    nearest: Annotated[list[Neighbour], Field(description="Items of the history, nearest first.")]


class Interaction(_In):
    """A user did something with an item; both may be new."""

    user: Id
    item: Id
    timestamp: Annotated[int | None, Field(ge=0, le=MAX_TIMESTAMP, description="Seconds since 1970; none: now.")] = None
    title: Title = None


class Interactions(_In):
    """Interactions to learn of."""

    interactions: Annotated[list[Interaction], Field(min_length=1, max_length=MAX_INTERACTIONS)]


class NewItem(_In):
    """An item that nobody has touched; one that is known stays as it is."""

    item: Id
    title: Title = None
    attributes: Annotated[
        list[Id], Field(max_length=MAX_ATTRIBUTES, description="Categorical values, in the words of the data.")
    ] = []
    text: Annotated[str | None, Field(max_length=MAX_TEXT, description="What else is written of it.")] = None


class NewItems(_In):
    """Items to recommend from now on."""

    items: Annotated[list[NewItem], Field(min_length=1, max_length=MAX_ITEMS)]


class Receipt(BaseModel):
    """What was told is on the disk and in use."""

    accepted: Annotated[
        int, Field(description="How many interactions, items or removals; those known before count too.")
    ]
    sequence: Annotated[int, Field(description="Number of the line of the log that holds them.")]


class Items(BaseModel):
    """Items in the order of the data."""

    items: list[Item]
    total: Annotated[int, Field(description="How many there are, whatever was searched for.")]


class Users(BaseModel):
    """Users in the order of the data."""

    users: list[str]
    total: Annotated[int, Field(description="How many there are, whatever was searched for.")]


class History(BaseModel):
    """What a user did, oldest first."""

    user: str
    history: list[Item]
    total: Annotated[int, Field(description="How many there are; the newest are given.")]


class Health(BaseModel):
    """State of the server."""

    status: Annotated[str, Field(description='"ok", or why nothing can be recorded.')]
    users: int
    items: int
    sequence: Annotated[int, Field(description="Number of the last line of the log.")]


class Failure(BaseModel):
    """Why a request failed."""

    error: Annotated[str, Field(description="One line.")]
