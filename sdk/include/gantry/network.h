/* Network drivers: how packets reach a container.
 *
 * The core makes network namespaces and keeps the records of networks and endpoints; the driver
 * makes links, addresses, routes and firewall rules, and leases addresses. `none`, `host` and
 * `container:ID` need no driver.
 *
 *   create_network -> attach (link, address, routes inside the namespace) -> publish (ports)
 *                  -> unpublish -> detach -> remove_network
 *
 * attach and publish are apart so that a namespace can be wired ahead of the container it will
 * serve. After a start of the engine the core calls restore() once with everything that should
 * exist; the driver makes the kernel agree: missing rules return, leftovers of this engine go.
 * Nothing of another program is ever touched.
 */
#ifndef GANTRY_NETWORK_H
#define GANTRY_NETWORK_H

#include <gantry/abi.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gantry_network_caps {
    uint32_t struct_size; /* set by the caller */
    int32_t ports;        /* publish works */
    int32_t ipv6;
    int32_t internal; /* networks without a way out */
    int32_t multiple; /* more than the default network */
    int32_t static_address;
} gantry_network_caps;

/* [borrowed] */
typedef struct gantry_subnet {
    uint32_t struct_size;
    uint32_t reserved;
    const char *cidr;    /* "10.88.0.0/16", "fd00:88::/64" */
    const char *gateway; /* address, or "" for the driver's choice */
    const char *range;   /* part of cidr from which addresses are leased, or "" for all */
} gantry_subnet;

/* [borrowed] */
typedef struct gantry_network_spec {
    uint32_t struct_size;
    int32_t internal;
    const char *id; /* 64 hex digits */
    const char *name;
    const gantry_subnet *subnets; /* none: the driver's configuration decides */
    uint32_t subnet_count;
    int32_t ipv6;
    const gantry_label *options; /* driver options of `network create -o` */
    uint32_t option_count;
    uint32_t mtu; /* 0: the driver's choice */
} gantry_network_spec;

/* What create_network settled; one call of add for each subnet. */
typedef struct gantry_subnet_sink {
    uint32_t struct_size;
    uint32_t reserved;
    void *ctx;
    /* [call] */
    gantry_status (*add)(void *ctx, const gantry_subnet *subnet);
} gantry_subnet_sink;

/* [borrowed] */
typedef struct gantry_endpoint_spec {
    uint32_t struct_size;
    int32_t netns_fd; /* the container's namespace; -1 in restore when it has none any more.
                         [fd borrowed, CLOEXEC] */
    const char *id;   /* 64 hex digits, never used twice */
    const char *network_id;
    const char *interface_name; /* wanted name inside: "eth0" */
    const char *ipv4;           /* wanted address without prefix, or "" */
    const char *ipv6;
    const char *mac; /* "02:42:..", or "" */
    const char *hostname;
    const gantry_label *options;
    uint32_t option_count;
    uint32_t reserved;
} gantry_endpoint_spec;

/* What attach settled. [borrowed] */
typedef struct gantry_endpoint_info {
    uint32_t struct_size;
    uint32_t ipv4_prefix; /* 0: no IPv4 */
    const char *ipv4;
    const char *ipv4_gateway; /* or "" */
    const char *ipv6;
    const char *ipv6_gateway;
    const char *mac;
    const char *host_interface; /* "" when there is none */
    uint32_t ipv6_prefix;
    uint32_t mtu;
} gantry_endpoint_info;

typedef struct gantry_endpoint_sink {
    uint32_t struct_size;
    uint32_t reserved;
    void *ctx;
    /* [call] exactly once */
    gantry_status (*set)(void *ctx, const gantry_endpoint_info *info);
} gantry_endpoint_sink;

typedef enum gantry_protocol { GANTRY_TCP = 6, GANTRY_UDP = 17, GANTRY_SCTP = 132 } gantry_protocol;

/* One published port. The host port is taken from [host_port, host_port_end]; both 0 means any free
 * port of the ephemeral range. host_ip "" means every address, IPv4 and IPv6 with the same port.
 * [borrowed] */
typedef struct gantry_port {
    uint32_t struct_size;
    gantry_protocol protocol;
    const char *host_ip;
    uint16_t host_port;
    uint16_t host_port_end;
    uint16_t container_port;
    uint16_t reserved;
} gantry_port;

typedef struct gantry_port_sink {
    uint32_t struct_size;
    uint32_t reserved;
    void *ctx;
    /* [call] Once for each requested port, in order, with host_port == host_port_end settled. */
    gantry_status (*add)(void *ctx, const gantry_port *port);
} gantry_port_sink;

/* What restore() is told: a live endpoint and its settled ports. [borrowed] */
typedef struct gantry_endpoint_state {
    uint32_t struct_size;
    uint32_t port_count;
    const gantry_endpoint_spec *spec;
    const gantry_endpoint_info *info;
    const gantry_port *ports;
} gantry_endpoint_state;

/* [borrowed] */
typedef struct gantry_network_state {
    uint32_t struct_size;
    uint32_t network_count;
    const gantry_network_spec *const *networks; /* subnets as settled */
    const gantry_endpoint_state *const *endpoints;
    uint32_t endpoint_count;
    uint32_t reserved;
} gantry_network_state;

typedef struct gantry_network_stats {
    uint32_t struct_size;
    uint32_t reserved;
    uint64_t rx_bytes, rx_packets, rx_errors, rx_dropped; /* as the container sees them */
    uint64_t tx_bytes, tx_packets, tx_errors, tx_dropped;
} gantry_network_stats;

typedef struct gantry_network_v1 {
    uint32_t struct_size;
    uint32_t reserved;

    /* [any] Cheap. */
    gantry_status (*caps)(gantry_driver *driver, const gantry_call *call, gantry_network_caps *out);

    /* [any; serialised by network id] Idempotent on the same spec. GANTRY_FAILED_PRECONDITION when a
     * subnet overlaps another network or a route of the host. */
    gantry_status (*create_network)(gantry_driver *driver, const gantry_call *call,
                                    const gantry_network_spec *spec, const gantry_subnet_sink *sink);

    /* [any; serialised by network id] Idempotent. The core has detached all endpoints. */
    gantry_status (*remove_network)(gantry_driver *driver, const gantry_call *call,
                                    const gantry_network_spec *spec);

    /* [any; serialised by endpoint id] Brings the link up inside the namespace with address and
     * routes. Idempotent on the same id: the same address again. A lease outlives restarts of the
     * engine until detach. GANTRY_NO_SPACE when the pool is used up, GANTRY_ALREADY_EXISTS when a
     * wanted address is taken. On failure nothing stays. */
    gantry_status (*attach)(gantry_driver *driver, const gantry_call *call, const gantry_endpoint_spec *spec,
                            const gantry_endpoint_sink *sink);

    /* [any; serialised by endpoint id] Gives the lease back and removes host-side rules. The link
     * may be left to die with its namespace when netns_fd is -1. Idempotent. */
    gantry_status (*detach)(gantry_driver *driver, const gantry_call *call, const gantry_endpoint_spec *spec);

    /* [any; serialised by endpoint id] Replaces the set of published ports of the endpoint by
     * `ports` (none: unpublish all). All or nothing. GANTRY_ALREADY_EXISTS with a message that
     * names address, port and, where known, who holds it. */
    gantry_status (*publish)(gantry_driver *driver, const gantry_call *call, const char *endpoint_id,
                             const gantry_endpoint_info *info, const gantry_port *ports, uint32_t port_count,
                             const gantry_port_sink *sink);

    /* [main] The whole truth, once after create: make the kernel agree with it. A failure for one
     * object is logged and does not keep the others from being restored. */
    gantry_status (*restore)(gantry_driver *driver, const gantry_call *call,
                             const gantry_network_state *state);

    /* [any] */
    gantry_status (*stats)(gantry_driver *driver, const gantry_call *call, const gantry_endpoint_spec *spec,
                           gantry_network_stats *out);

    /* [main] Removes every kernel object of this engine (used by `gantryd --clean` and tests). */
    gantry_status (*clean)(gantry_driver *driver, const gantry_call *call);
} gantry_network_v1;

#ifdef __cplusplus
}
#endif

#endif
