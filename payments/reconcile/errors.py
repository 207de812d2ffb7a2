"""What staff can meet with findings.

NotFound   finding.not_found
Forbidden  finding.head_needed
Conflict   finding.settled
"""

from app.kernel.errors import Conflict, Forbidden, NotFound


class FindingNotFound(NotFound):
    code = "finding.not_found"


class HeadNeeded(Forbidden):
    """Closing a difference by hand is for the head of the agency."""

    code = "finding.head_needed"


class FindingSettled(Conflict):
    """Settled already, by the hall or by somebody else: load it again."""

    code = "finding.settled"
