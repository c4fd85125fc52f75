"""What Envoy Gateway and Istio make of our manifests, as a static Envoy config.

No control plane runs here. These follow what their translators do with the fields that we use (Envoy Gateway:
internal/xds/translator/extproc.go and route.go; Istio: the order of an EnvoyFilter's patches and its merges), so that a field with a
wrong value shows, and the result can be tried with a real Envoy. That a control plane reads the manifests so is not shown.
"""

from __future__ import annotations

import copy

import envoy_config
import yaml
from address import Tcp
from sources import KUBERNETES, Object, documents, manager, manifest

ENVOY = Tcp("127.0.0.1", 8801)
ADMIN = Tcp("127.0.0.1", 19000)
ROUTER = Tcp("127.0.0.1", 50051)
UPSTREAM = Tcp("127.0.0.1", 8000)

_EXT_PROC = "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor"
_EARLY = "type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"
_MODES = {"FullDuplexStreamed": "FULL_DUPLEX_STREAMED", "Streamed": "STREAMED", "Buffered": "BUFFERED"}
# As Envoy Gateway sets it on each gRPC service of an extension.
_GRPC_TIMEOUT = "10s"
# How Istio's proxies find the cluster in the names of figures, from its envoy_bootstrap.json: the name has dots, and Envoy's own
# rule ends at the first.
_ISTIO_TAGS = {
    "use_all_default_tags": False,
    "stats_tags": [{"tag_name": "cluster_name", "regex": r"^cluster\.((.+?(\..+?\.svc\.cluster\.local)?)\.)"}],
}
# The least idle timeout that it gives to a route with a request timeout, in seconds.
_LEAST_IDLE = 3600


def istio() -> Object:
    """The ingress gateway's config with the VirtualService, the DestinationRules and the EnvoyFilter."""
    config, http = _without_ours()
    service = manifest("istio", "VirtualService", "responses")["spec"]
    routes = [_istio_route(rule, match) for rule in service["http"] for match in rule.get("match", [{}])]
    clusters = {
        f"outbound|{port}||{rule['host']}": (address, _istio_breakers(rule["trafficPolicy"]["connectionPool"]))
        for name, port, address in (("responses-router", 50051, ROUTER), ("chat-backend", 8000, UPSTREAM))
        for rule in [manifest("istio", "DestinationRule", name)["spec"]]
    }
    config["static_resources"]["clusters"] = [
        _cluster(name, address, breakers, h2=address is ROUTER) for name, (address, breakers) in clusters.items()
    ]
    for patch in manifest("istio", "EnvoyFilter", "responses")["spec"]["configPatches"]:
        value, where = patch["patch"]["value"], patch["applyTo"]
        if where == "NETWORK_FILTER":
            _merge(http, value["typed_config"])
        elif where == "HTTP_FILTER":
            assert patch["patch"]["operation"] == "INSERT_BEFORE"
            http["http_filters"].insert(-1, value)
        elif where == "HTTP_ROUTE":
            name = patch["match"]["routeConfiguration"]["vhost"]["route"]["name"]
            for route in routes:
                if route["name"] == name:
                    _merge(route, value)
    http["route_config"]["virtual_hosts"][0]["routes"] = routes
    config["stats_config"] = _ISTIO_TAGS
    return config


def envoy_gateway(*, patched: bool, idle_by_route: bool = True) -> Object:
    """The Gateway's config with the routes and the policies; `patched` with the EnvoyPatchPolicy as well.

    `idle_by_route` as releases up to 1.5.8 and 1.6.3 do it: each route with a request timeout gets an idle timeout. Since 1.5.9
    and 1.6.4 none gets one where the ClientTrafficPolicy has a streamIdleTimeout.
    """
    config, http = _without_ours()
    resources = documents(KUBERNETES / "envoy-gateway/responses.yaml")
    found = {(resource["kind"], resource["metadata"]["name"]): resource["spec"] for resource in resources}
    (ext_proc,) = found["EnvoyExtensionPolicy", "responses"]["extProc"]
    (reference,) = ext_proc["backendRefs"]
    cluster, mode = "envoyextensionpolicy/responses-router/responses/extproc/0", ext_proc["processingMode"]
    grpc = {"cluster_name": cluster, "authority": f"{reference['name']}.responses-router:{reference['port']}"}
    name = "envoy.filters.http.ext_proc/envoyextensionpolicy/responses-router/responses/extproc/0"
    http["http_filters"].insert(
        -1,
        {
            "name": name,
            "disabled": True,
            "typed_config": {
                "@type": _EXT_PROC,
                "grpc_service": {"envoy_grpc": grpc, "timeout": _GRPC_TIMEOUT},
                "failure_mode_allow": ext_proc["failOpen"],
                "processing_mode": {
                    "request_header_mode": "SEND",
                    "response_header_mode": "SEND",
                    "request_body_mode": _MODES[mode["request"]["body"]],
                    "response_body_mode": _MODES[mode["response"]["body"]],
                    "request_trailer_mode": "SEND",
                    "response_trailer_mode": "SEND",
                },
                "request_attributes": mode["request"].get("attributes", []),
                "response_attributes": mode["response"].get("attributes", []),
                **_gateway_metadata(ext_proc.get("metadata", {})),
            },
        },
    )
    traffic = found["BackendTrafficPolicy", "responses"]
    targets = [target["name"] for target in traffic["targetRefs"]]
    client = found["ClientTrafficPolicy", "responses"]
    http["stream_idle_timeout"] = client["timeout"]["http"]["streamIdleTimeout"]
    http["early_header_mutation_extensions"] = [
        {
            "name": "envoy.http.early_header_mutation.header_mutation",
            "typed_config": {
                "@type": _EARLY,
                "mutations": [{"remove": name} for name in client["headers"]["earlyRequestHeaders"]["remove"]],
            },
        }
    ]
    routes = []
    # More specific paths first, as the Gateway API has it.
    for route in ("responses", "chat"):
        (rule,) = found["HTTPRoute", route]["rules"]
        (match,) = rule["matches"]
        assert match["path"]["type"] == "PathPrefix"
        action: Object = {"cluster": f"httproute/responses-router/{route}/rule/0", "upgrade_configs": [{"upgrade_type": "websocket"}]}
        if route in targets:
            action["timeout"] = traffic["timeout"]["http"]["requestTimeout"]
            if idle_by_route:
                action["idle_timeout"] = _gateway_idle(action["timeout"])
        routes.append({"match": {"path_separated_prefix": match["path"]["value"]}, "route": action})
        if route == found["EnvoyExtensionPolicy", "responses"]["targetRefs"][0]["name"]:
            routes[-1]["typed_per_filter_config"] = {
                name: {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "config": {}}
            }
    http["route_config"]["virtual_hosts"][0]["routes"] = routes
    config["static_resources"]["clusters"] = [
        _cluster(cluster, ROUTER, _gateway_breakers(ext_proc["backendSettings"]["circuitBreaker"]), h2=True),
        *(
            _cluster(route["route"]["cluster"], UPSTREAM, _gateway_breakers(traffic["circuitBreaker"]), h2=False)
            for route in routes
        ),
    ]
    if patched:
        (patch,) = manifest("envoy-gateway", "EnvoyPatchPolicy", "responses")["spec"]["jsonPatches"]
        operation = patch["operation"]
        assert operation["op"] == "add"
        *_, typed_config, key = operation["path"].split("/")
        assert typed_config == "typed_config"
        http[key] = operation["value"]
    return config


def _without_ours() -> tuple[Object, Object]:
    """An Envoy that serves nothing of ours yet, and its connection manager."""
    text = envoy_config.render(listen=ENVOY, admin=ADMIN, upstream=UPSTREAM, router=ROUTER)
    config = yaml.safe_load(text)
    http = manager(config)
    for ours in ("local_reply_config", "stream_idle_timeout", "early_header_mutation_extensions", "access_log"):
        http.pop(ours, None)
    http["http_filters"] = http["http_filters"][-1:]
    return config, http


def _istio_route(rule: Object, match: Object) -> Object:
    kinds = {"exact": "path", "prefix": "prefix"}
    ((kind, path),) = match.get("uri", {"prefix": "/"}).items()
    assert rule["retries"]["attempts"] == 0
    ((destination,),) = [[route["destination"] for route in rule["route"]]]
    cluster = f"outbound|{destination['port']['number']}||{destination['host']}"
    action = {"cluster": cluster, "timeout": rule["timeout"], "upgrade_configs": [{"upgrade_type": "websocket"}]}
    return {"name": rule["name"], "match": {kinds[kind]: path}, "route": action}


def _istio_breakers(pool: Object) -> Object:
    http = pool["http"]
    return {
        "max_connections": pool["tcp"]["maxConnections"],
        "max_pending_requests": http["http1MaxPendingRequests"],
        "max_requests": http["http2MaxRequests"],
    }


def _gateway_breakers(breaker: Object) -> Object:
    return {
        "max_connections": breaker["maxConnections"],
        "max_pending_requests": breaker["maxPendingRequests"],
        "max_requests": breaker["maxParallelRequests"],
    }


def _gateway_idle(timeout: str) -> str:
    """A route's idle timeout: none without a request timeout, and else never less than that."""
    return f"{max(seconds(timeout), _LEAST_IDLE)}s" if seconds(timeout) else "0s"


def seconds(duration: str) -> int:
    """Of a duration as our manifests have it, in seconds alone."""
    return int(duration.removesuffix("s"))


def _gateway_metadata(metadata: Object) -> Object:
    options = {}
    if "accessibleNamespaces" in metadata:
        options["forwarding_namespaces"] = {"untyped": metadata["accessibleNamespaces"]}
    if "writableNamespaces" in metadata:
        options["receiving_namespaces"] = {"untyped": metadata["writableNamespaces"]}
    return {"metadata_options": options} if options else {}


def _cluster(name: str, address: Tcp, breakers: Object, *, h2: bool) -> Object:
    endpoint = {"address": {"socket_address": {"address": address.host, "port_value": address.port}}}
    cluster: Object = {
        "name": name,
        "type": "STATIC",
        "circuit_breakers": {"thresholds": [breakers]},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}]},
    }
    if h2:
        cluster["typed_extension_protocol_options"] = {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        }
    return cluster


def _merge(into: Object, value: Object) -> None:
    """Merges as protobuf does: lists are joined, messages merged, the rest replaced."""
    for key, new in value.items():
        old = into.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            _merge(old, new)
        elif isinstance(old, list) and isinstance(new, list):
            old.extend(copy.deepcopy(new))
        else:
            into[key] = copy.deepcopy(new)
