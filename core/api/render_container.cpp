// A container as GET /containers/X/json and as a row of GET /containers/json. Keys that clients look up
// without asking are always present, with empty values where nothing is attached.
#include "core/api/dialect.h"
#include "core/api/render.h"
#include "core/base/ids.h"
#include "core/container/containers.h"
#include "core/layer/layers.h"

#include <gantry/error.hpp>

#include <boost/json.hpp>
#include <fmt/format.h>

namespace json = boost::json;

namespace gantry::api {

namespace {

const char *protocol_word(gantry_protocol protocol) {
    switch (protocol) {
    case GANTRY_UDP: return "udp";
    case GANTRY_SCTP: return "sctp";
    default: return "tcp";
    }
}

std::string with_slash(const std::string &name) { return name.starts_with("/") ? name : "/" + name; }

/// "" is every address, which Docker shows as one entry per family.
std::vector<std::string> shown_ips(const std::string &host_ip) {
    if (host_ip.empty()) return {"0.0.0.0", "::"};
    return {host_ip};
}

std::string network_of(const ContainerInfo &info) {
    const std::string &mode = info.config.network_mode;
    return mode.empty() || mode == "default" ? "bridge" : mode;
}

json::object ports_map(const ContainerInfo &info) {
    json::object out;
    if (!info.state.running) return out;
    for (const std::string &port : info.config.exposed_ports)
        out[port] = nullptr;
    for (const Endpoint &endpoint : info.endpoints)
        for (const PortBinding &binding : endpoint.ports) {
            json::value &entry =
                out[fmt::format("{}/{}", binding.container_port, protocol_word(binding.protocol))];
            if (!entry.is_array()) entry = json::array();
            for (const std::string &ip : shown_ips(binding.host_ip))
                entry.as_array().push_back({{"HostIp", ip}, {"HostPort", std::to_string(binding.host_port)}});
        }
    return out;
}

json::array ports_list(const ContainerInfo &info) {
    json::array out;
    if (!info.state.running) return out;
    const json::object ports = ports_map(info);
    for (const auto &[key, bindings] : ports) {
        const std::string name(key);
        const size_t slash = name.find('/');
        const int64_t number = std::strtol(name.c_str(), nullptr, 10);
        const std::string type = slash == name.npos ? "tcp" : name.substr(slash + 1);
        if (!bindings.is_array()) {
            out.push_back({{"PrivatePort", number}, {"Type", type}});
            continue;
        }
        for (const json::value &binding : bindings.get_array())
            out.push_back(
                {{"IP", binding.at("HostIp")},
                 {"PrivatePort", number},
                 {"PublicPort", std::strtol(binding.at("HostPort").as_string().c_str(), nullptr, 10)},
                 {"Type", type}});
    }
    return out;
}

json::object empty_endpoint() {
    return {{"IPAMConfig", nullptr}, {"Links", nullptr},        {"Aliases", nullptr},
            {"MacAddress", ""},      {"NetworkID", ""},         {"EndpointID", ""},
            {"Gateway", ""},         {"IPAddress", ""},         {"IPPrefixLen", 0},
            {"IPv6Gateway", ""},     {"GlobalIPv6Address", ""}, {"GlobalIPv6PrefixLen", 0},
            {"DriverOpts", nullptr}, {"DNSNames", nullptr}};
}

json::object networks_map(const ContainerInfo &info) {
    json::object out;
    const std::string mode = network_of(info);
    for (const NetworkRequest &wanted : info.config.networks) {
        const std::string name = wanted.name == "default" || wanted.name.empty() ? "bridge" : wanted.name;
        json::object entry = empty_endpoint();
        if (!wanted.aliases.empty()) entry["Aliases"] = strings_json(wanted.aliases);
        if (!wanted.ipv4.empty()) entry["IPAMConfig"] = {{"IPv4Address", wanted.ipv4}};
        out[name] = std::move(entry);
    }
    if (out.empty() && !mode.starts_with("container:")) out[mode] = empty_endpoint();
    for (const Endpoint &endpoint : info.endpoints) {
        json::value &slot = out[endpoint.network_name];
        if (!slot.is_object()) slot = empty_endpoint();
        json::object &entry = slot.get_object();
        const EndpointInfo &e = endpoint.info;
        entry["NetworkID"] = endpoint.network_id;
        entry["EndpointID"] = endpoint.id;
        entry["Gateway"] = e.ipv4_gateway;
        entry["IPAddress"] = e.ipv4;
        entry["IPPrefixLen"] = e.ipv4_prefix;
        entry["IPv6Gateway"] = e.ipv6_gateway;
        entry["GlobalIPv6Address"] = e.ipv6;
        entry["GlobalIPv6PrefixLen"] = e.ipv6_prefix;
        entry["MacAddress"] = e.mac;
    }
    return out;
}

json::object network_settings(const ContainerInfo &info) {
    json::object out{{"Bridge", ""},
                     {"SandboxID", info.state.running ? info.sandbox_id : ""},
                     {"SandboxKey", info.state.running && info.state.pid
                                        ? fmt::format("/proc/{}/ns/net", info.state.pid)
                                        : ""},
                     {"HairpinMode", false},
                     {"LinkLocalIPv6Address", ""},
                     {"LinkLocalIPv6PrefixLen", 0},
                     {"SecondaryIPAddresses", nullptr},
                     {"SecondaryIPv6Addresses", nullptr},
                     {"Ports", ports_map(info)},
                     {"EndpointID", ""},
                     {"Gateway", ""},
                     {"IPAddress", ""},
                     {"IPPrefixLen", 0},
                     {"IPv6Gateway", ""},
                     {"GlobalIPv6Address", ""},
                     {"GlobalIPv6PrefixLen", 0},
                     {"MacAddress", ""}};
    json::object networks = networks_map(info);
    // The flat keys repeat the default bridge's endpoint.
    if (const json::value *bridge = networks.if_contains("bridge"))
        for (const char *key : {"EndpointID", "Gateway", "IPAddress", "IPPrefixLen", "IPv6Gateway",
                                "GlobalIPv6Address", "GlobalIPv6PrefixLen", "MacAddress"})
            out[key] = bridge->at(key);
    out["Networks"] = std::move(networks);
    return out;
}

json::array mounts_list(const ContainerInfo &info) {
    json::array out;
    for (const MountPoint &mount : info.mounts) {
        json::object entry{{"Type", mount.type}};
        if (!mount.name.empty()) entry["Name"] = mount.name;
        entry["Source"] = mount.source;
        entry["Destination"] = mount.destination;
        if (!mount.driver.empty()) entry["Driver"] = mount.driver;
        entry["Mode"] = mount.mode;
        entry["RW"] = mount.rw;
        entry["Propagation"] = mount.propagation;
        out.push_back(std::move(entry));
    }
    return out;
}

void add_sizes(const Engine &engine, const ContainerInfo &info, json::object &out) {
    uint64_t own = 0, root = 0;
    try {
        own = engine.containers->size_rw(info.id);
        for (const std::string &id : engine.layers->lineage(info.layer))
            if (id != info.layer) root += engine.layers->get(id).size;
    } catch (const Error &) {
        // removed meanwhile: the row stays, its size is nothing
    }
    out["SizeRw"] = own;
    out["SizeRootFs"] = own + root;
}

} // namespace

json::object render_container(const Engine &engine, const ContainerInfo &info, bool size) {
    const ContainerState &s = info.state;
    json::object state{{"Status", s.status},
                       {"Running", s.running},
                       {"Paused", s.paused},
                       {"Restarting", s.restarting},
                       {"OOMKilled", s.oom_killed},
                       {"Dead", s.dead},
                       {"Pid", s.pid},
                       {"ExitCode", s.exit_code},
                       {"Error", s.error},
                       {"StartedAt", rfc3339(s.started_ns)},
                       {"FinishedAt", rfc3339(s.finished_ns)}};
    if (!s.health.empty()) {
        json::array log;
        for (const HealthResult &r : s.health_log)
            log.push_back(json::object{{"Start", rfc3339(r.start_ns)},
                                       {"End", rfc3339(r.end_ns)},
                                       {"ExitCode", r.exit_code},
                                       {"Output", r.output}});
        state["Health"] = {
            {"Status", s.health}, {"FailingStreak", s.health_failures}, {"Log", std::move(log)}};
    }
    json::object out{{"Id", info.id},
                     {"Created", rfc3339(info.created_ns)},
                     {"Path", info.path},
                     {"Args", strings_json(info.args)},
                     {"State", std::move(state)},
                     {"Image", info.image_id},
                     {"ResolvConfPath", info.resolv_conf_path},
                     {"HostnamePath", info.hostname_path},
                     {"HostsPath", info.hosts_path},
                     {"LogPath", info.log_path},
                     {"Name", with_slash(info.name)},
                     {"RestartCount", s.restart_count},
                     {"Driver", info.driver},
                     {"Platform", "linux"},
                     {"MountLabel", ""},
                     {"ProcessLabel", ""},
                     {"AppArmorProfile", ""},
                     {"ExecIDs", nullptr},
                     {"HostConfig", json::parse(host_config_json(info.config))},
                     {"GraphDriver", {{"Data", json::object{{"Layer", info.layer}}}, {"Name", info.driver}}},
                     {"Mounts", mounts_list(info)},
                     {"Config", json::parse(config_json(info.config))},
                     {"NetworkSettings", network_settings(info)}};
    if (!info.exec_ids.empty()) out["ExecIDs"] = strings_json(info.exec_ids);
    if (size) add_sizes(engine, info, out);
    return out;
}

json::object render_container_row(const Engine &engine, const ContainerInfo &info, bool size) {
    std::string command = info.path;
    for (const std::string &arg : info.args) {
        command += ' ';
        command += arg.find_first_of(" \t\n'\"") == arg.npos ? arg : "'" + arg + "'";
    }
    const std::string mode = info.config.network_mode.empty() ? "default" : info.config.network_mode;
    json::object out{{"Id", info.id},
                     {"Names", json::array{with_slash(info.name)}},
                     {"Image", info.image_name.empty() ? info.image_id : info.image_name},
                     {"ImageID", info.image_id},
                     {"Command", command},
                     {"Created", info.created_ns / 1'000'000'000},
                     {"Ports", ports_list(info)},
                     {"Labels", labels_json(info.config.labels)},
                     {"State", info.state.status},
                     {"Status", status_sentence(info.state, wall_ns())},
                     {"HostConfig", {{"NetworkMode", mode}}},
                     {"NetworkSettings", {{"Networks", networks_map(info)}}},
                     {"Mounts", mounts_list(info)}};
    if (size) add_sizes(engine, info, out);
    return out;
}

} // namespace gantry::api
