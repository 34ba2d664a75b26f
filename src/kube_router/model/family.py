"""The address family, as the vocabulary of state needs it: 4 or 6. `kit.net` has the same word beside its functions;
neither level imports the other, and the type is equal by its values."""

from typing import Literal

Family = Literal[4, 6]
