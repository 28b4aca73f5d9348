// A network driver whose table is written by hand and breaks the rules of its sinks, as `mode` says.
#include <gantry/plugin.hpp>

#include <cstring>

namespace {

struct Careless {
    std::string mode;
};
Careless *of(gantry_driver *d) { return reinterpret_cast<Careless *>(d); }

gantry_status attach(gantry_driver *d, const gantry_call *, const gantry_endpoint_spec *,
                     const gantry_endpoint_sink *sink) {
    gantry_endpoint_info info{};
    info.struct_size = sizeof info;
    info.ipv4 = "10.0.0.2";
    info.ipv4_gateway = info.ipv6 = info.ipv6_gateway = info.mac = info.host_interface = "";
    info.ipv4_prefix = of(d)->mode == "prefix" ? 99 : 24;
    if (of(d)->mode == "null") info.mac = nullptr;
    if (of(d)->mode == "never") return GANTRY_OK;
    sink->set(sink->ctx, &info);
    if (of(d)->mode == "twice") sink->set(sink->ctx, &info);
    return GANTRY_OK;
}

gantry_status publish(gantry_driver *d, const gantry_call *, const char *, const gantry_endpoint_info *,
                      const gantry_port *ports, uint32_t count, const gantry_port_sink *sink) {
    if (of(d)->mode == "throws") throw 42; // no veneer: straight through the edge
    for (uint32_t i = 0; i < count; ++i) {
        if (of(d)->mode == "never") continue;
        gantry_port p = ports[i];
        p.host_port = p.host_port_end = of(d)->mode == "unsettled" ? 0 : 1234;
        sink->add(sink->ctx, &p);
        if (of(d)->mode == "twice") sink->add(sink->ctx, &p);
    }
    return GANTRY_OK;
}

const gantry_network_v1 kTable = [] {
    gantry_network_v1 t = gantry::detail::kNetworkTable;
    t.attach = attach;
    t.publish = publish;
    return t;
}();
const gantry_option kOptions[] = {gantry::option_string("mode", "\"\"", "which rule is broken")};

gantry_status create(const gantry_call *call, const gantry_environment *, const gantry_value *config,
                     gantry_driver **out) {
    return gantry::detail::guard(call, [&] {
        *out = reinterpret_cast<gantry_driver *>(new Careless{gantry::Config(config).string("mode")});
    });
}

} // namespace

GANTRY_PLUGIN_NOTE(GANTRY_KIND_NETWORK);
extern "C" const struct gantry_plugin_entry gantry_plugin_entry = {{'G', 'A', 'N', 'T', 'R', 'Y', 1, '\n'},
                                                                   GANTRY_ABI_MAJOR,
                                                                   GANTRY_ABI_MINOR,
                                                                   sizeof(struct gantry_plugin_entry),
                                                                   GANTRY_KIND_NETWORK,
                                                                   "careless",
                                                                   "1",
                                                                   "breaks the rules",
                                                                   "",
                                                                   kOptions,
                                                                   1,
                                                                   0,
                                                                   nullptr,
                                                                   &kTable,
                                                                   gantry::detail::init,
                                                                   gantry::detail::deinit,
                                                                   create,
                                                                   [](gantry_driver *d) { delete of(d); }};
