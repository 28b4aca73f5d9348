// The create body: what the CLI really sends, what is refused, and the round trip for the database.
#include "core/container/config.h"
#include "core/container/parse.h"

#include <boost/json.hpp>
#include <gantry/error.hpp>
#include <gtest/gtest.h>

namespace gantry {
namespace {

// As sent by docker 28 run -d --name w -p 8080:80 -v data:/data:ro -e A=1 busybox sleep 5
const char *const kCliBody =
    R"({"Hostname":"","Domainname":"","User":"","AttachStdin":false,"AttachStdout":false,
"AttachStderr":false,"ExposedPorts":{"80/tcp":{}},"Tty":false,"OpenStdin":false,"StdinOnce":false,"Env":["A=1"],
"Cmd":["sleep","5"],"Image":"busybox","Volumes":{},"WorkingDir":"","Entrypoint":null,"OnBuild":null,"Labels":{},
"HostConfig":{"Binds":["data:/data:ro"],"ContainerIDFile":"","LogConfig":{"Type":"","Config":{}},
"NetworkMode":"default","PortBindings":{"80/tcp":[{"HostIp":"","HostPort":"8080"}]},
"RestartPolicy":{"Name":"no","MaximumRetryCount":0},"AutoRemove":false,"VolumeDriver":"","VolumesFrom":null,
"ConsoleSize":[0,0],"CapAdd":null,"CapDrop":null,"CgroupnsMode":"","Dns":[],"DnsOptions":[],"DnsSearch":[],
"ExtraHosts":null,"GroupAdd":null,"IpcMode":"","Cgroup":"","Links":null,"OomScoreAdj":0,"PidMode":"",
"Privileged":false,"PublishAllPorts":false,"ReadonlyRootfs":false,"SecurityOpt":null,"UTSMode":"","UsernsMode":"",
"ShmSize":0,"Isolation":"","CpuShares":0,"Memory":0,"NanoCpus":0,"CgroupParent":"","BlkioWeight":0,
"BlkioWeightDevice":[],"BlkioDeviceReadBps":[],"BlkioDeviceWriteBps":[],"BlkioDeviceReadIOps":[],
"BlkioDeviceWriteIOps":[],"CpuPeriod":0,"CpuQuota":0,"CpuRealtimePeriod":0,"CpuRealtimeRuntime":0,"CpusetCpus":"",
"CpusetMems":"","Devices":[],"DeviceCgroupRules":null,"DeviceRequests":null,"MemoryReservation":0,"MemorySwap":0,
"MemorySwappiness":-1,"OomKillDisable":false,"PidsLimit":0,"Ulimits":null,"CpuCount":0,"CpuPercent":0,
"IOMaximumIOps":0,"IOMaximumBandwidth":0,"MaskedPaths":null,"ReadonlyPaths":null},
"NetworkingConfig":{"EndpointsConfig":{"default":{"IPAMConfig":null,"Links":null,"Aliases":null,"NetworkID":"",
"EndpointID":"","Gateway":"","IPAddress":"","IPPrefixLen":0,"IPv6Gateway":"","GlobalIPv6Address":"",
"GlobalIPv6PrefixLen":0,"MacAddress":"","DriverOpts":null}}}})";

std::string refusal(const std::string &body) {
    try {
        parse_container_config(body);
    } catch (const Error &error) {
        return error.message();
    }
    return "";
}

TEST(Codec, ReadsTheClisBody) {
    const ContainerConfig c = parse_container_config(kCliBody);
    EXPECT_EQ(c.image, "busybox");
    EXPECT_EQ(c.cmd, (std::vector<std::string>{"sleep", "5"}));
    EXPECT_FALSE(c.entrypoint_set);
    EXPECT_EQ(c.exposed_ports, std::vector<std::string>{"80/tcp"});
    ASSERT_EQ(c.mounts.size(), 1u);
    EXPECT_EQ(c.mounts[0].type, "volume");
    EXPECT_EQ(c.mounts[0].source, "data");
    EXPECT_TRUE(c.mounts[0].read_only);
    ASSERT_EQ(c.ports.size(), 1u);
    EXPECT_EQ(c.ports[0].host_port, "8080");
    ASSERT_EQ(c.networks.size(), 1u);
    EXPECT_EQ(c.networks[0].name, "default");
}

TEST(Codec, RoundTripIsStable) {
    const auto first = encode_container_config(parse_container_config(kCliBody));
    EXPECT_EQ(encode_container_config(decode_container_config(first)), first);
}

TEST(Codec, RoundTripKeepsMounts) {
    const char *body =
        R"({"Image":"a","Cmd":[],"HostConfig":{"Binds":["/a:/b:rslave"],"Tmpfs":{"/run":"size=1m"},
      "Mounts":[{"Type":"bind","Source":"/x","Target":"/y","ReadOnly":true},
                {"Type":"tmpfs","Target":"/z","TmpfsOptions":{"SizeBytes":1024,"Mode":448}}],
      "MaskedPaths":[]}})";
    const auto c = decode_container_config(encode_container_config(parse_container_config(body)));
    ASSERT_EQ(c.mounts.size(), 4u);
    EXPECT_EQ(c.mounts[0].propagation, "rslave");
    EXPECT_TRUE(c.mounts[1].read_only);
    EXPECT_EQ(c.mounts[2].tmpfs_size, 1024u);
    EXPECT_EQ(c.mounts[2].tmpfs_mode, 448u);
    EXPECT_EQ(c.mounts[3].tmpfs_options, "size=1m");
    EXPECT_TRUE(c.masked_paths_set);
    EXPECT_TRUE(c.masked_paths.empty());
    EXPECT_TRUE(c.cmd_set);
}

TEST(Codec, StringOrList) {
    EXPECT_EQ(parse_container_config(R"({"Cmd":"ls","Entrypoint":""})").cmd, std::vector<std::string>{"ls"});
    EXPECT_TRUE(parse_container_config(R"({"Cmd":"ls","Entrypoint":""})").entrypoint_set);
    EXPECT_FALSE(parse_container_config(R"({"Cmd":null})").cmd_set);
}

TEST(Codec, RefusesWhatItCannotHonourByName) {
    EXPECT_NE(refusal(R"({"HostConfig":{"DeviceRequests":[{"Count":-1}]}})").find("DeviceRequests"),
              std::string::npos);
    EXPECT_NE(refusal(R"({"HostConfig":{"LogConfig":{"Type":"syslog"}}})").find("syslog"), std::string::npos);
    EXPECT_NE(refusal(R"({"HostConfig":{"SecurityOpt":["apparmor=x"]}})").find("AppArmor"),
              std::string::npos);
    EXPECT_EQ(refusal(R"({"HostConfig":{"Sysctls":{"kernel.panic":"1"}}})"),
              "sysctl 'kernel.panic' is not allowed");
    EXPECT_EQ(refusal(R"({"HostConfig":{"Memory":1024}})"), "Minimum memory limit allowed is 6MB");
}

TEST(Codec, RefusesWrongTypesByFieldName) {
    EXPECT_NE(refusal(R"({"Cmd":{}})").find("Cmd"), std::string::npos);
    EXPECT_NE(refusal(R"({"HostConfig":{"Memory":"x"}})").find("HostConfig.Memory"), std::string::npos);
    EXPECT_NE(refusal(R"([1])"), "");
    EXPECT_NE(refusal("{"), "");
    EXPECT_NE(refusal("{\"Env\":[\"A=\\u0000\"]}").find("NUL"), std::string::npos);
    EXPECT_EQ(refusal(R"({"HostConfig":{"Binds":["/a:/d","/b:/d"]}})"), "Duplicate mount point: /d");
}

TEST(Codec, UnknownKeysAreIgnored) {
    EXPECT_EQ(refusal(R"({"Image":"x","Foo":1,"HostConfig":{"Bar":[]}})"), "");
}

TEST(Codec, HostConfigHasEveryKey) {
    const auto host = boost::json::parse(host_config_json(parse_container_config(kCliBody))).as_object();
    const auto sent = boost::json::parse(kCliBody).at("HostConfig").as_object();
    for (const auto &[key, value] : sent)
        EXPECT_TRUE(host.contains(key)) << key;
    EXPECT_EQ(host.at("LogConfig").at("Type").as_string(), "json-file");
    EXPECT_EQ(host.at("Binds").at(0).as_string(), "data:/data:ro");
    EXPECT_EQ(host.at("PortBindings").at("80/tcp").at(0).at("HostPort").as_string(), "8080");
}

TEST(Parse, Binds) {
    auto m = parse_bind("/src/../a:/dst/:ro,z,rprivate");
    EXPECT_EQ(m.type, "bind");
    EXPECT_EQ(m.source, "/a");
    EXPECT_EQ(m.target, "/dst");
    EXPECT_TRUE(m.read_only);
    EXPECT_EQ(m.propagation, "rprivate");
    EXPECT_EQ(parse_bind("/only").type, "volume");
    EXPECT_EQ(parse_bind("name:/x:nocopy").no_copy, true);
    for (const char *bad : {"", ":/x", "a:b", "/a:/", "/a:/b:ro,rw", "/a:/b:what", "x:/y:rprivate",
                            "/a:/b:nocopy", "a/b:/c", "/a:/b:ro:z"}) {
        EXPECT_THROW(parse_bind(bad), Error) << bad;
    }
}

TEST(Parse, Ports) {
    EXPECT_EQ(expand_container_port("80"), std::vector<std::string>{"80/tcp"});
    EXPECT_EQ(expand_container_port("8000-8002/UDP").size(), 3u);
    EXPECT_EQ(parse_host_ports("8000-8010"), (std::pair<uint16_t, uint16_t>{8000, 8010}));
    EXPECT_EQ(parse_host_ports("0"), (std::pair<uint16_t, uint16_t>{0, 0}));
    for (const char *bad : {"70000", "9-8", "x", "-1", "1-", "80 "})
        EXPECT_THROW(parse_host_ports(bad), Error) << bad;
    EXPECT_THROW(expand_container_port("80/icmp"), Error);
    EXPECT_THROW(expand_container_port("0/tcp"), Error);
    ContainerConfig c;
    c.exposed_ports = {"80/tcp", "53/udp"};
    c.ports = {{"80/tcp", "127.0.0.1", "8080"}};
    c.publish_all = true;
    const auto bindings = port_bindings(c);
    ASSERT_EQ(bindings.size(), 2u);
    EXPECT_EQ(bindings[0].host_port, 8080);
    EXPECT_EQ(bindings[1].protocol, GANTRY_UDP);
    EXPECT_EQ(bindings[1].host_port, 0);
}

TEST(Parse, Signals) {
    EXPECT_EQ(parse_signal("TERM"), 15);
    EXPECT_EQ(parse_signal("sigkill"), 9);
    EXPECT_EQ(parse_signal("28"), 28);
    EXPECT_EQ(parse_signal("RTMIN+3"), 37);
    EXPECT_THROW(parse_signal("0"), Error);
    EXPECT_THROW(parse_signal("NOPE"), Error);
}

TEST(Parse, Users) {
    const std::string passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/srv:/bin/false\n";
    const std::string group = "root:x:0:\nwww:x:34:\nextra:x:50:web,other\nadm:x:4:other\n";
    auto ids = resolve_user("web", {}, passwd, group);
    EXPECT_EQ(ids.uid, 33u);
    EXPECT_EQ(ids.gid, 34u);
    EXPECT_EQ(ids.groups, std::vector<uint32_t>{50});
    EXPECT_EQ(ids.home, "/srv");
    ids = resolve_user("33:adm", {"extra", "77"}, passwd, group);
    EXPECT_EQ(ids.gid, 4u);
    EXPECT_EQ(ids.groups, (std::vector<uint32_t>{50, 77}));
    ids = resolve_user("1234", {}, passwd, group);
    EXPECT_EQ(ids.uid, 1234u);
    EXPECT_EQ(ids.gid, 0u);
    EXPECT_EQ(ids.home, "/");
    EXPECT_EQ(resolve_user("", {}, passwd, group).home, "/root");
    try {
        resolve_user("nobody", {}, passwd, group);
        FAIL();
    } catch (const Error &error) {
        EXPECT_EQ(error.message(), "unable to find user nobody: no matching entries in passwd file");
    }
    EXPECT_THROW(resolve_user("web:none", {}, passwd, group), Error);
}

TEST(Parse, Environment) {
    const auto env = merge_env({"PATH=/bin", "A=1"}, {"A=2", "B=3", "PATH"});
    EXPECT_EQ(env, (std::vector<std::string>{"A=2", "B=3"}));
}

TEST(Parse, SizesAndRules) {
    EXPECT_EQ(parse_bytes("10m"), 10u << 20);
    EXPECT_EQ(parse_bytes("1GB"), 1u << 30);
    EXPECT_THROW(parse_bytes("m"), Error);
    EXPECT_THROW(parse_bytes("99999999999999999g"), Error);
    const auto rule = parse_device_rule("c 10:* rw");
    EXPECT_EQ(rule.major, 10);
    EXPECT_EQ(rule.minor, -1);
    EXPECT_THROW(parse_device_rule("x 1:1 r"), Error);
}

TEST(Parse, RestartBackOff) {
    EXPECT_EQ(restart_delay_ms(0), 100);
    EXPECT_EQ(restart_delay_ms(1), 200);
    EXPECT_EQ(restart_delay_ms(9), 51200);
    EXPECT_EQ(restart_delay_ms(10), 60000);
    EXPECT_EQ(restart_delay_ms(1000000), 60000);
}

} // namespace
} // namespace gantry
