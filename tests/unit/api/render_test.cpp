// The documents that clients index into without asking: every key is there, also when nothing is attached.
#include "core/api/render.h"
#include "core/container/containers.h"
#include "core/events/events.h"
#include "core/image/images.h"
#include "core/volume/volumes.h"

#include <boost/json.hpp>
#include <gtest/gtest.h>

namespace json = boost::json;

namespace gantry::api {
namespace {

ContainerInfo web() {
    ContainerInfo info;
    info.id = std::string(64, 'a');
    info.name = "web";
    info.image_id = "sha256:" + std::string(64, 'b');
    info.image_name = "busybox:latest";
    info.path = "sh";
    info.args = {"-c", "echo hi"};
    info.created_ns = 1'700'000'000ll * 1'000'000'000;
    info.config.image = "busybox";
    return info;
}

ContainerInfo running_web() {
    ContainerInfo info = web();
    info.state.status = "running";
    info.state.running = true;
    info.state.pid = 42;
    info.config.exposed_ports = {"80/tcp", "99/tcp"};
    Endpoint endpoint;
    endpoint.id = "e1", endpoint.network_id = "n1", endpoint.network_name = "bridge";
    endpoint.info.ipv4 = "10.88.0.2", endpoint.info.ipv4_prefix = 16,
    endpoint.info.ipv4_gateway = "10.88.0.1";
    endpoint.info.mac = "02:42:0a:58:00:02";
    PortBinding any, one;
    any.host_port = 8080, any.container_port = 80;
    one.protocol = GANTRY_UDP, one.host_ip = "127.0.0.1", one.host_port = 5300, one.container_port = 53;
    endpoint.ports = {any, one};
    info.endpoints = {endpoint};
    return info;
}

TEST(Render, created_container_has_every_key) {
    const json::object out = render_container(Engine(), web(), false);
    for (const char *key : {"Id",           "Created",         "Path",           "Args",       "State",
                            "Image",        "ResolvConfPath",  "HostnamePath",   "HostsPath",  "LogPath",
                            "Name",         "RestartCount",    "Driver",         "Platform",   "MountLabel",
                            "ProcessLabel", "AppArmorProfile", "ExecIDs",        "HostConfig", "GraphDriver",
                            "Mounts",       "Config",          "NetworkSettings"})
        EXPECT_TRUE(out.contains(key)) << key;
    EXPECT_EQ(out.at("Name"), "/web");
    EXPECT_EQ(out.at("Created"), "2023-11-14T22:13:20Z");
    EXPECT_TRUE(out.at("ExecIDs").is_null());
    const json::object &state = out.at("State").as_object();
    EXPECT_EQ(state.at("StartedAt"), "0001-01-01T00:00:00Z");
    EXPECT_FALSE(state.contains("Health"));
    const json::object &net = out.at("NetworkSettings").as_object();
    EXPECT_EQ(net.at("IPAddress"), "");
    EXPECT_TRUE(net.at("Ports").as_object().empty());
    EXPECT_EQ(net.at("Networks").at("bridge").at("NetworkID"), "");
    EXPECT_FALSE(out.contains("SizeRw"));
}

TEST(Render, running_container_shows_its_network) {
    const json::object out = render_container(Engine(), running_web(), false);
    const json::object &net = out.at("NetworkSettings").as_object();
    EXPECT_EQ(net.at("IPAddress"), "10.88.0.2");
    EXPECT_EQ(net.at("Networks").at("bridge").at("IPPrefixLen"), 16);
    const json::object &ports = net.at("Ports").as_object();
    EXPECT_EQ(json::serialize(ports.at("80/tcp")),
              R"([{"HostIp":"0.0.0.0","HostPort":"8080"},{"HostIp":"::","HostPort":"8080"}])");
    EXPECT_EQ(json::serialize(ports.at("53/udp")), R"([{"HostIp":"127.0.0.1","HostPort":"5300"}])");
    EXPECT_TRUE(ports.at("99/tcp").is_null());
}

TEST(Render, row_of_the_list) {
    const json::object out = render_container_row(Engine(), running_web(), false);
    EXPECT_EQ(json::serialize(out.at("Names")), R"(["/web"])");
    EXPECT_EQ(out.at("Command"), "sh -c 'echo hi'");
    EXPECT_EQ(out.at("Created"), 1'700'000'000);
    EXPECT_EQ(out.at("State"), "running");
    EXPECT_EQ(out.at("HostConfig").at("NetworkMode"), "default");
    EXPECT_EQ(out.at("Ports").as_array().size(), 4u);
    std::string ports = json::serialize(out.at("Ports"));
    EXPECT_NE(ports.find(R"({"PrivatePort":99,"Type":"tcp"})"), std::string::npos) << ports;
    EXPECT_TRUE(render_container_row(Engine(), web(), false).at("Ports").as_array().empty());
}

TEST(Render, image_rows_by_version) {
    ImageInfo image;
    image.id = "sha256:1";
    image.size = 7;
    EXPECT_EQ(json::serialize(render_image_row(image, 47, -1).at("RepoTags")), "[]");
    EXPECT_FALSE(render_image_row(image, 44, -1).contains("VirtualSize"));
    EXPECT_EQ(render_image_row(image, 43, -1).at("VirtualSize"), 7u);
    EXPECT_EQ(json::serialize(render_image_row(image, 41, -1).at("RepoTags")), R"(["<none>:<none>"])");
}

TEST(Render, events_have_both_generations_of_keys) {
    Event event{
        "container", "die", "c1", {{"image", "busybox"}, {"exitCode", "3"}}, 1'700'000'000'123'456'789};
    const json::object out = render_event(event);
    EXPECT_EQ(out.at("status"), "die");
    EXPECT_EQ(out.at("from"), "busybox");
    EXPECT_EQ(out.at("Actor").at("Attributes").at("exitCode"), "3");
    EXPECT_EQ(out.at("time"), 1'700'000'000);
    event.type = "volume";
    EXPECT_FALSE(render_event(event).contains("status"));
}

TEST(Render, volumes) {
    Volume volume;
    volume.name = "v";
    volume.created_ns = 1'700'000'000'900'000'000;
    const json::object out = render_volume(volume);
    EXPECT_EQ(out.at("CreatedAt"), "2023-11-14T22:13:20Z");
    EXPECT_TRUE(out.at("Labels").is_null());
    EXPECT_EQ(out.at("Scope"), "local");
}

} // namespace
} // namespace gantry::api
