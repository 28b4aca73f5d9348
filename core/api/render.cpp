// Networks, volumes, events and the helpers of every route.
#include "core/api/render.h"
#include "core/api/dialect.h"
#include "core/base/ids.h"
#include "core/container/containers.h"
#include "core/events/events.h"
#include "core/network/networks.h"
#include "core/volume/volumes.h"

#include <gantry/error.hpp>

#include <boost/json.hpp>
#include <fmt/format.h>

namespace json = boost::json;

namespace gantry::api {

json::object labels_json(const std::map<std::string, std::string> &labels) {
    json::object out;
    for (const auto &[key, value] : labels)
        out[key] = value;
    return out;
}

json::array strings_json(const std::vector<std::string> &strings) {
    json::array out;
    for (const std::string &text : strings)
        out.emplace_back(text);
    return out;
}

void reply(Exchange &exchange, int status, const json::value &value) {
    exchange.response.json(status, json::serialize(value) + "\n");
}

json::object body_object(Exchange &exchange, bool need_type) {
    std::string text = exchange.request.body_json();
    if (text.find_first_not_of(" \t\r\n") == text.npos) return {};
    const std::string &type = exchange.request.header("content-type");
    if (need_type && type.find("application/json") == type.npos && !type.empty())
        throw Error(ErrorClass::kInvalidArgument,
                    "Content-Type specified (" + type + ") must be 'application/json'");
    boost::system::error_code error;
    json::value value = json::parse(text, error);
    if (error) throw Error(ErrorClass::kInvalidArgument, "invalid JSON: " + error.message());
    if (value.is_null()) return {};
    if (!value.is_object()) throw Error(ErrorClass::kInvalidArgument, "invalid JSON: an object is expected");
    return std::move(value.get_object());
}

json::object render_network(const Engine &engine, const Network &network, bool with_containers) {
    json::array subnets;
    for (const Subnet &subnet : network.spec.subnets) {
        json::object entry{{"Subnet", subnet.cidr}};
        if (!subnet.range.empty()) entry["IPRange"] = subnet.range;
        if (!subnet.gateway.empty()) entry["Gateway"] = subnet.gateway;
        subnets.push_back(std::move(entry));
    }
    json::object options;
    for (const auto &[key, value] : network.spec.options)
        options[key] = value;
    json::object containers;
    if (with_containers) {
        for (const Endpoint &endpoint : engine.networks->endpoints_on(network.id)) {
            std::string name;
            try {
                name = engine.containers->inspect(endpoint.owner).name;
            } catch (const Error &) {
                continue; // a warm sandbox's endpoint belongs to nobody yet
            }
            const EndpointInfo &info = endpoint.info;
            containers[endpoint.owner] = json::object{
                {"Name", name.starts_with("/") ? name.substr(1) : name},
                {"EndpointID", endpoint.id},
                {"MacAddress", info.mac},
                {"IPv4Address", info.ipv4.empty() ? "" : fmt::format("{}/{}", info.ipv4, info.ipv4_prefix)},
                {"IPv6Address", info.ipv6.empty() ? "" : fmt::format("{}/{}", info.ipv6, info.ipv6_prefix)}};
        }
    }
    return {{"Name", network.name},
            {"Id", network.id},
            {"Created", rfc3339(network.created_ns)},
            {"Scope", "local"},
            {"Driver", network.driver},
            {"EnableIPv4", true},
            {"EnableIPv6", network.spec.ipv6},
            {"IPAM", {{"Driver", "default"}, {"Options", nullptr}, {"Config", std::move(subnets)}}},
            {"Internal", network.spec.internal},
            {"Attachable", false},
            {"Ingress", false},
            {"ConfigFrom", {{"Network", ""}}},
            {"ConfigOnly", false},
            {"Containers", std::move(containers)},
            {"Options", std::move(options)},
            {"Labels", json::object()}};
}

json::object render_volume(const Volume &volume) {
    json::object out{{"CreatedAt", rfc3339(volume.created_ns / 1'000'000'000 * 1'000'000'000)},
                     {"Driver", volume.driver},
                     {"Labels", nullptr},
                     {"Mountpoint", volume.mountpoint},
                     {"Name", volume.name},
                     {"Options", nullptr},
                     {"Scope", "local"}};
    if (!volume.labels.empty()) out["Labels"] = labels_json(volume.labels);
    if (!volume.options.empty()) out["Options"] = labels_json(volume.options);
    return out;
}

json::object render_event(const Event &event) {
    json::object out;
    // The flat keys of old clients exist for containers and images only.
    if (event.type == "container" || event.type == "image") {
        out["status"] = event.action;
        out["id"] = event.id;
        auto from = event.attributes.find("image");
        if (event.type == "container" && from != event.attributes.end()) out["from"] = from->second;
    }
    out["Type"] = event.type;
    out["Action"] = event.action;
    out["Actor"] = {{"ID", event.id}, {"Attributes", labels_json(event.attributes)}};
    out["scope"] = "local";
    out["time"] = event.time_ns / 1'000'000'000;
    out["timeNano"] = event.time_ns;
    return out;
}

} // namespace gantry::api
