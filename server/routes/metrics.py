"""`GET /metrics`: counters of this process and totals of the catalog, in Prometheus's text.

Must not name an account. Invariant: nobody sees them but an operator: a token with the scope admin or, unless the
configuration says no, whoever asks from this machine itself and not through a proxy.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, func, select
from starlette.requests import Request
from starlette.responses import Response

from server import auth
from server.auth import Action
from server.catalog.schema import USERS
from server.errors import NotFound
from server.meter import BUCKETS
from server.routes.asking import service_of
from server.service import Service

_PROXIED = ("forwarded", "x-forwarded-for", "x-real-ip", "via")


async def show_metrics(request: Request) -> Response:
    """GET of all metrics."""
    service = service_of(request)
    if not (service.settings.metrics_loopback and _is_local(request)):
        principal = await service.read(auth.authenticate, request.headers.get("authorization"))
        principal.require(Action.OPERATE)
    try:
        import prometheus_client  # an extra of the server's, and nothing else needs it
    except ImportError as error:
        raise NotFound("Metrics need the package prometheus-client: install blobfs[metrics].") from error
    totals = await service.read(_sum_up)
    registry = prometheus_client.CollectorRegistry()
    registry.register(_Collector(service, totals))
    text = prometheus_client.generate_latest(registry)
    return Response(text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


def _is_local(request: Request) -> bool:
    if request.client is None or any(name in request.headers for name in _PROXIED):
        return False
    try:
        return ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False


def _sum_up(connection: Connection) -> dict[str, int]:
    columns = (func.count(), func.sum(USERS.c.blobs), func.sum(USERS.c.used), func.sum(USERS.c.reserved))
    row = connection.execute(select(*columns).where(USERS.c.removed.is_(False))).one()
    return {name: int(value or 0) for name, value in zip(("users", "blobs", "used", "reserved"), row, strict=True)}


_TOTALS = {
    "users": ("blobfs_users", "Accounts."),
    "blobs": ("blobfs_blobs", "Blobs of all accounts."),
    "used": ("blobfs_used_bytes", "Bytes that count towards quotas, of all accounts."),
    "reserved": ("blobfs_reserved_bytes", "Bytes set aside for uploads under way."),
}


class _Collector:
    """What Prometheus's library asks for one answer."""

    def __init__(self, service: Service, totals: dict[str, int]) -> None:
        self._service = service
        self._totals = totals

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        meter = self._service.meter
        labels = ["route", "method", "status"]
        requests = CounterMetricFamily("blobfs_requests", "Requests; 499: the client went away.", labels=labels)
        for (route, method, status), number in meter.requests.items():
            requests.add_metric([route, method, str(status)], number)
        yield requests
        took = HistogramMetricFamily("blobfs_request_seconds", "From head to end of the answer.", labels=["route"])
        for route, counts in meter.took.items():
            sums = [sum(counts[: index + 1]) for index in range(len(counts))]
            bounds = [*map(str, BUCKETS), "+Inf"]
            took.add_metric([route], list(zip(bounds, sums, strict=True)), meter.took_ms[route] / 1000)
        yield took
        yield GaugeMetricFamily("blobfs_open_requests", "Requests under way.", meter.open)
        yield GaugeMetricFamily("blobfs_waiting_requests", "Long polls and event streams.", self._service.news.waiting)
        yield GaugeMetricFamily("blobfs_json_bytes", "JSON bodies held in memory.", self._service.bodies.total)
        for name, (metric, text) in _TOTALS.items():
            yield GaugeMetricFamily(metric, text, self._totals[name])
