"""Who a caller of the service is, and what the caller may do. HTTP and gRPC ask the same `Gate`; nothing here knows a protocol.

    gate = Gate.open(Path("access.toml"), time.time)
    caller = gate.admit("Bearer penstock_...", None)         # Unauthenticated
    caller.check("score", topology="flights")                # Forbidden
    caller.spend(rows=256)                                   # RateLimited, TooLarge
    refused = caller.refused({"store": stores})              # rows with values that the caller may not send, each with the reason

Credentials: `keys` (API keys), `tokens` and `keyset` (JWT, and the keys of their issuers), `certificate` (mTLS). What they allow:
`file` (the access file), `rules` (rights, scopes, fields), `meter` (rates). Beside them: `audit` (what callers did), `tls` (the
service's certificate), `exposure` (which addresses may be listened on).
"""

from penstock.access.audit import Audit
from penstock.access.gate import Caller, Gate

__all__ = ["Audit", "Caller", "Gate"]
