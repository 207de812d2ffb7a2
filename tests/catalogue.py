"""The hall's own catalogue, read and judged once: nobody changes it."""

from functools import cache

from app.catalogue.load import Catalogue
from commands.environment import load_catalogue


@cache
def the_catalogue() -> Catalogue:
    return load_catalogue()
