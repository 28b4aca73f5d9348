// A network with one fault, over the bridge driver.
#include "faulty.h"

#include "plugins/net-bridge/driver.h"

#include <mutex>

namespace {

using faulty::is;
const gantry_network_v1 &good = gantry::detail::kNetworkTable;
std::string root; // of the one instance

gantry_call silent(const gantry_call *call) {
    gantry_call out = *call;
    out.error = nullptr;
    return out;
}

gantry_status caps(gantry_driver *d, const gantry_call *call, gantry_network_caps *out) {
    if (!is("caps-overrun")) return good.caps(d, call, out);
    gantry_network_caps whole{};
    whole.struct_size = sizeof whole;
    const gantry_status status = good.caps(d, call, &whole);
    memcpy(out, &whole, sizeof whole);
    return status;
}

gantry_status create_network(gantry_driver *d, const gantry_call *call, const gantry_network_spec *spec,
                             const gantry_subnet_sink *sink) {
    static bool made = false;
    if (is("create-once") && std::exchange(made, true))
        return faulty::fail(call, GANTRY_ALREADY_EXISTS, "create network: it is there");
    const gantry_status status = good.create_network(d, call, spec, sink);
    return status;
}

gantry_status remove_network(gantry_driver *d, const gantry_call *call, const gantry_network_spec *spec) {
    if (is("remove-nothing")) return GANTRY_OK;
    return good.remove_network(d, call, spec);
}

gantry_status attach(gantry_driver *d, const gantry_call *call, const gantry_endpoint_spec *spec,
                     const gantry_endpoint_sink *sink) {
    faulty::at_call();
    gantry_endpoint_spec changed = *spec;
    const gantry_call mute = silent(call);
    if (is("leak-in-call") && open("/dev/null", O_RDONLY | O_CLOEXEC) < 0) abort();
    if (is("wish-ignored")) changed.ipv4 = "";
    if (is("wrong-class")) {
        const gantry_status status = good.attach(d, &mute, spec, sink);
        return status == GANTRY_OK ? status : faulty::fail(call, GANTRY_INTERNAL, "attach: no");
    }
    if (is("reports-never")) return good.attach(d, &mute, spec, sink);
    if (is("reports-twice")) {
        const gantry_status status = good.attach(d, call, spec, sink);
        return status == GANTRY_OK ? status : faulty::fail(call, status, "attach: no");
    }
    if (is("new-address-each-time")) {
        struct Other {
            const gantry_endpoint_sink *to;
            int turn;
        };
        static int turn = 0;
        Other other{sink, turn++};
        gantry_endpoint_sink lie{sizeof lie, 0, &other,
                                 [](void *ctx, const gantry_endpoint_info *info) -> gantry_status {
                                     const Other &o = *static_cast<Other *>(ctx);
                                     gantry_endpoint_info copy = *info;
                                     const std::string address = "10.88.9." + std::to_string(o.turn + 2);
                                     copy.ipv4 = address.c_str();
                                     return o.to->set(o.to->ctx, &copy);
                                 }};
        return good.attach(d, call, spec, &lie);
    }
    if (is("race")) {
        static char current[128]; // of all threads
        snprintf(current, sizeof current, "%s", spec->id);
        usleep(500);
        const std::string mine = current;
        changed.id = mine.c_str();
    }
    if (is("cancel-half-done")) {
        gantry_call deaf = faulty::deaf(call);
        const gantry_status status = good.attach(d, &deaf, spec, sink);
        if (status != GANTRY_OK || call->cancel_fd < 0) return status;
        return faulty::fail(call, GANTRY_CANCELLED, "attach: cancelled");
    }
    if (is("lock-in-attach"))
        return faulty::with_stale_lock(call, root + "/LOCK",
                                       [&] { return good.attach(d, call, spec, sink); });
    return good.attach(d, call, &changed, sink);
}

gantry_status detach(gantry_driver *d, const gantry_call *call, const gantry_endpoint_spec *spec) {
    if (is("lease-kept")) return GANTRY_OK;
    if (is("closes-namespace") && spec->netns_fd >= 0) {
        const gantry_status status = good.detach(d, call, spec);
        close(spec->netns_fd);
        return status;
    }
    if (is("lock-in-detach"))
        return faulty::with_stale_lock(call, root + "/LOCK", [&] { return good.detach(d, call, spec); });
    return good.detach(d, call, spec);
}

gantry_status publish(gantry_driver *d, const gantry_call *call, const char *id,
                      const gantry_endpoint_info *info, const gantry_port *ports, uint32_t count,
                      const gantry_port_sink *sink) {
    if (is("ports-pile-up") && count == 0) return GANTRY_OK;
    if (is("half-a-set") && count > 1) {
        gantry_port_sink none{sizeof none, 0, nullptr,
                              [](void *, const gantry_port *) -> gantry_status { return GANTRY_OK; }};
        good.publish(d, call, id, info, ports, 1, &none);
    }
    if (is("nameless-conflict")) {
        const gantry_call mute = silent(call);
        const gantry_status status = good.publish(d, &mute, id, info, ports, count, sink);
        return status == GANTRY_OK ? status : faulty::fail(call, status, "publish: taken");
    }
    if (is("lock-in-publish"))
        return faulty::with_stale_lock(call, root + "/LOCK",
                                       [&] { return good.publish(d, call, id, info, ports, count, sink); });
    return good.publish(d, call, id, info, ports, count, sink);
}

gantry_status restore(gantry_driver *d, const gantry_call *call, const gantry_network_state *state) {
    if (is("restores-nothing")) return GANTRY_OK;
    gantry_network_state changed = *state;
    if (is("forgets-endpoints")) changed.endpoint_count = 0;
    return good.restore(d, call, &changed);
}

gantry_status stats(gantry_driver *d, const gantry_call *call, const gantry_endpoint_spec *spec,
                    gantry_network_stats *out) {
    const gantry_status status = good.stats(d, call, spec, out);
    if (is("directions-swapped")) {
        std::swap(out->rx_packets, out->tx_packets);
        out->tx_packets = out->tx_bytes = 0;
    }
    return status;
}

gantry_status clean(gantry_driver *d, const gantry_call *call) {
    if (is("cleans-nothing")) return GANTRY_OK;
    if (is("cleans-too-much") && system("ip link del out0; nft flush ruleset") < 0) abort();
    return good.clean(d, call);
}

const gantry_network_v1 kTable{sizeof(gantry_network_v1),
                               0,
                               caps,
                               create_network,
                               remove_network,
                               attach,
                               detach,
                               publish,
                               restore,
                               stats,
                               clean};
const gantry_ability kAbilities[] = {{GANTRY_PROBE_1, &faulty::kProbe}};

} // namespace

GANTRY_PLUGIN_ENTRY_(GANTRY_KIND_NETWORK, gantry::NetworkDriver, kTable, kAbilities, 1, "faulty", "1",
                     faulty::kText, faulty::kOptions,
                     [](const gantry::Environment &env, const gantry::Config &, const gantry::Call &) {
                         faulty::at_create(env);
                         root = env.root;
                         gantry::bridge::Settings settings;
                         settings.name = "gfaulty0";
                         settings.subnet = "10.88.0.0/16";
                         return gantry::bridge::make_driver(env, settings);
                     });
GANTRY_PLUGIN_PROBE([](const gantry::Environment &, const gantry::Config *, const gantry::Call &) {});
