"""`GET /usage`: what an account holds and may hold, to whoever may read it.

Invariant: it tells of the token's own account and of no other; what is being uploaded counts once it is there.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from blobfs.protocol import UsageJson
from server.auth import Action
from server.catalog.accounts import load_account
from server.routes.asking import authorise, service_of


async def show_usage(request: Request) -> Response:
    """GET of bytes used, the quota, and the number of blobs."""
    principal = await authorise(request, Action.READ)
    account = await service_of(request).read(load_account, principal.user_id)
    return JSONResponse(UsageJson(used=account.used, quota=account.quota, objects=account.blobs))
