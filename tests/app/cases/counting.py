"""An independent count of a deadline: it walks day by day and asks only whether a day is a working day."""

from collections.abc import Callable, Sequence
from datetime import date, timedelta

DAY = timedelta(days=1)
Limit = tuple[int, str]
Stop = tuple[date, date]  # the first day and the last day that do not count


def last_day(
    start: date,
    limits: Sequence[Limit],
    stops: Sequence[Stop],
    is_workday: Callable[[date], bool],
) -> date:
    """Return the last day of limits that run one after another from `start`, which does not count itself."""

    def stands(day: date) -> bool:
        return any(first <= day <= last for first, last in stops)

    day = start
    for number, (days, unit) in enumerate(limits):
        left = days
        while left:
            day += DAY
            if not stands(day) and (unit == "calendar" or is_workday(day)):
                left -= 1
        # 即办 on the day itself; a calendar limit never ends on a rest day.
        if unit == "calendar" or days == 0:
            while not is_workday(day) or (stands(day) and not (number == 0 and day == start)):
                day += DAY
    return day
