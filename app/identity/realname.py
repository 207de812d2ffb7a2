"""The real-name and face service (HALL_REALNAME_URL). Any answer but a clear yes or no means: not known, ask again."""

from typing import Any, Protocol

import orjson
import structlog

from app.kernel.errors import HallError, ProviderUnavailable

log = structlog.get_logger(__name__)

_AWAY = "实名核验系统暂时没有回应，请过几分钟再试；您填写的内容不会丢失。"


class Http(Protocol):
    """What is needed of the shared HTTP client (app/platforms/http.py)."""

    async def request(
        self, vendor: str, method: str, url: str, *, headers: dict[str, str], body: bytes | None, timeout_s: float
    ) -> Any: ...


class RealName:
    """Thin client of the service; its own words stop here."""

    def __init__(self, http: Http, base_url: str, *, timeout_s: float = 8) -> None:
        self._http = http
        self._base_url = base_url
        self._timeout_s = timeout_s

    async def matches(self, name: str, id_number: str) -> bool:
        """Return whether name and citizen number belong together. Raises ProviderUnavailable."""
        answer = await self._call("POST", "/verify", {"name": name, "id_number": id_number})
        if not isinstance(answer.get("match"), bool):
            raise ProviderUnavailable(_AWAY, retry_after_s=60)
        return bool(answer["match"])

    async def start_face_check(self, name: str, id_number: str, order_no: str) -> tuple[str, dict[str, Any]]:
        """Return the service's check id and what the channel's face SDK takes."""
        answer = await self._call(
            "POST", "/face-checks", {"name": name, "id_number": id_number, "order_no": order_no}
        )
        if not isinstance(answer.get("id"), str) or not isinstance(answer.get("client_params"), dict):
            raise ProviderUnavailable(_AWAY, retry_after_s=60)
        return answer["id"], answer["client_params"]

    async def face_check_state(self, check_id: str) -> str:
        """Return `passed`, `failed` or `pending`: only this server-side question counts, never the client's word."""
        answer = await self._call("GET", f"/face-checks/{check_id}", None)
        state = answer.get("state")
        if state not in ("passed", "failed", "pending"):
            raise ProviderUnavailable(_AWAY, retry_after_s=60)
        return str(state)

    async def _call(self, method: str, path: str, body: dict[str, str] | None) -> dict[str, Any]:
        try:
            response = await self._http.request(
                "realname",
                method,
                self._base_url + path,
                headers={"Content-Type": "application/json", "Accept": "application/json"},
                body=None if body is None else orjson.dumps(body),
                timeout_s=self._timeout_s,
            )
            answer = orjson.loads(response.body)
        except (HallError, orjson.JSONDecodeError) as error:
            raise ProviderUnavailable(_AWAY, retry_after_s=60, en="The real-name service does not answer.") from error
        if response.status >= 300 or not isinstance(answer, dict):
            log.warning("realname.refused", status=response.status)
            raise ProviderUnavailable(_AWAY, retry_after_s=60, en="The real-name service does not answer.")
        return answer
