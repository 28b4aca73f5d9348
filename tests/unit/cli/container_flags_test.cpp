// The create body of typical command lines, compared as JSON values.
#include "core/cli/container_flags.h"

#include <boost/json.hpp>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <unistd.h>

namespace gantry::cli {
namespace {

namespace json = boost::json;

json::value body_of(const std::vector<std::string> &args, bool detached = false) {
    ParsedFlags flags = parse_flags(container_flags(), args, true);
    std::vector<std::string> command(flags.positional.begin() + 1, flags.positional.end());
    return create_body(flags, flags.positional[0], command, detached);
}

TEST(CreateBody, Minimal) {
    EXPECT_EQ(body_of({"alpine"}),
              json::parse(R"({"Image":"alpine","AttachStdin":false,"AttachStdout":true,"AttachStderr":true,
        "Tty":false,"OpenStdin":false,"StdinOnce":false,"HostConfig":{"NetworkMode":"default"}})"));
}

TEST(CreateBody, Interactive) {
    EXPECT_EQ(body_of({"-it", "--rm", "--name", "n", "alpine", "sh", "-c", "-x"}),
              json::parse(
                  R"({"Image":"alpine","AttachStdin":true,"AttachStdout":true,"AttachStderr":true,"Tty":true,
        "OpenStdin":true,"StdinOnce":true,"Cmd":["sh","-c","-x"],"HostConfig":{"AutoRemove":true,"NetworkMode":"default"}})"));
}

TEST(CreateBody, Full) {
    setenv("GANTRY_TEST_VARIABLE", "from-env", 1);
    unsetenv("GANTRY_TEST_ABSENT");
    EXPECT_EQ(body_of({"-e",
                       "A=1=2",
                       "-e",
                       "GANTRY_TEST_VARIABLE",
                       "-e",
                       "GANTRY_TEST_ABSENT",
                       "-l",
                       "k=v",
                       "-l",
                       "bare",
                       "-v",
                       "/h:/c:ro",
                       "-v",
                       "vol:/d",
                       "-v",
                       "/anon",
                       "--tmpfs",
                       "/t:size=1m",
                       "--tmpfs",
                       "/u",
                       "-p",
                       "8080:80",
                       "-p",
                       "127.0.0.1::53/udp",
                       "--expose",
                       "99",
                       "-m",
                       "64m",
                       "--memory-swap",
                       "-1",
                       "--cpus",
                       "1.5",
                       "-c",
                       "512",
                       "--pids-limit",
                       "-1",
                       "--read-only",
                       "--cap-add",
                       "NET_ADMIN",
                       "--cap-drop=ALL",
                       "--ulimit",
                       "nofile=10:20",
                       "--sysctl",
                       "net.a=1",
                       "--device",
                       "/dev/fuse:/dev/f:rw",
                       "--restart",
                       "on-failure:3",
                       "--network",
                       "front",
                       "--network-alias",
                       "web",
                       "--ip",
                       "10.1.1.1",
                       "--entrypoint",
                       "/e",
                       "-w",
                       "/w",
                       "-u",
                       "1:2",
                       "-h",
                       "host",
                       "--init",
                       "--stop-timeout",
                       "5",
                       "--health-cmd",
                       "true",
                       "--health-interval",
                       "2s",
                       "--log-opt",
                       "max-size=1m",
                       "--dns",
                       "1.1.1.1",
                       "--shm-size",
                       "1k",
                       "--add-host",
                       "a:1.2.3.4",
                       "img"},
                      true),
              json::parse(
                  R"({"Image":"img","AttachStdin":false,"AttachStdout":false,"AttachStderr":false,"Tty":false,
        "OpenStdin":false,"StdinOnce":false,"Entrypoint":["/e"],"Env":["A=1=2","GANTRY_TEST_VARIABLE=from-env"],
        "Labels":{"k":"v","bare":""},"Hostname":"host","User":"1:2","WorkingDir":"/w","StopTimeout":5,
        "Healthcheck":{"Test":["CMD-SHELL","true"],"Interval":2000000000},"Volumes":{"/anon":{}},
        "ExposedPorts":{"80/tcp":{},"53/udp":{},"99/tcp":{}},
        "NetworkingConfig":{"EndpointsConfig":{"front":{"Aliases":["web"],"IPAMConfig":{"IPv4Address":"10.1.1.1"}}}},
        "HostConfig":{"Binds":["/h:/c:ro","vol:/d"],"Tmpfs":{"/t":"size=1m","/u":""},
          "PortBindings":{"80/tcp":[{"HostIp":"","HostPort":"8080"}],"53/udp":[{"HostIp":"127.0.0.1","HostPort":""}]},
          "NetworkMode":"front","Memory":67108864,"MemorySwap":-1,"ShmSize":1024,"CpuShares":512,"PidsLimit":-1,
          "NanoCpus":1500000000,"ReadonlyRootfs":true,"Init":true,"CapAdd":["NET_ADMIN"],"CapDrop":["ALL"],
          "ExtraHosts":["a:1.2.3.4"],"Dns":["1.1.1.1"],"Sysctls":{"net.a":"1"},
          "Devices":[{"PathOnHost":"/dev/fuse","PathInContainer":"/dev/f","CgroupPermissions":"rw"}],
          "Ulimits":[{"Name":"nofile","Soft":10,"Hard":20}],"LogConfig":{"Type":"","Config":{"max-size":"1m"}},
          "RestartPolicy":{"Name":"on-failure","MaximumRetryCount":3}}})"));
}

TEST(Publish, Forms) {
    auto text = [](const std::string &spec) {
        std::string all;
        for (const PortSpec &p : parse_publish(spec))
            all += p.host_ip + "|" + p.host_port + "|" + p.container_port + "/" + p.protocol + " ";
        return all;
    };
    EXPECT_EQ(text("80"), "||80/tcp ");
    EXPECT_EQ(text("8080:80/UDP"), "|8080|80/udp ");
    EXPECT_EQ(text("1.2.3.4:8080:80"), "1.2.3.4|8080|80/tcp ");
    EXPECT_EQ(text("1.2.3.4::80"), "1.2.3.4||80/tcp ");
    EXPECT_EQ(text("[::1]:8080:80"), "::1|8080|80/tcp ");
    EXPECT_EQ(text("7000-7001:8000-8001"), "|7000|8000/tcp |7001|8001/tcp ");
    EXPECT_EQ(text("7000-7009:80"), "|7000-7009|80/tcp ");
    for (const char *bad :
         {"", "x", "80:", "0", "70000", "1:2:3:4", "1-2:5-9", "9-8:9-8", "80/xyz", "[::1:80", "-1:80"})
        EXPECT_THROW(parse_publish(bad), FlagError) << bad;
}

TEST(Mount, Forms) {
    EXPECT_EQ(
        parse_mount("type=bind,src=/a,dst=/b,ro,bind-propagation=rslave"),
        json::parse(
            R"({"Type":"bind","Source":"/a","Target":"/b","ReadOnly":true,"BindOptions":{"Propagation":"rslave"}})"));
    EXPECT_EQ(
        parse_mount("type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1770"),
        json::parse(R"({"Type":"tmpfs","Target":"/t","TmpfsOptions":{"SizeBytes":1048576,"Mode":1016}})"));
    for (const char *bad :
         {"type=bind,src=/a", "target=/a,bogus=1", "target=/a,x", "target=/a,readonly=perhaps"})
        EXPECT_THROW(parse_mount(bad), FlagError) << bad;
}

TEST(Files, EnvAndSeccomp) {
    char path[] = "/tmp/gantry-cli-test-XXXXXX";
    int fd = mkstemp(path);
    ASSERT_GE(fd, 0);
    close(fd);
    std::ofstream(path) << "# comment\n\nA=1\r\n  B= x \nGANTRY_TEST_ABSENT\n";
    EXPECT_EQ(read_key_values(path, true), (std::vector<std::string>{"A=1", "B= x "}));
    std::ofstream(path) << "A B=1\n";
    EXPECT_THROW(read_key_values(path, true), FlagError);
    std::ofstream(path) << "{ \"defaultAction\" : \"SCMP_ACT_ALLOW\" }";
    auto body = body_of(
        {"--security-opt", std::string("seccomp=") + path, "--security-opt", "no-new-privileges", "i"});
    EXPECT_EQ(body.at("HostConfig").at("SecurityOpt"),
              json::parse(R"(["seccomp={\"defaultAction\":\"SCMP_ACT_ALLOW\"}","no-new-privileges"])"));
    std::ofstream(path) << "not json";
    EXPECT_THROW(body_of({"--security-opt", std::string("seccomp=") + path, "i"}), FlagError);
    for (const char *bad : {"two", "1.5x", "-1", "nan", "1e9"})
        EXPECT_THROW(body_of({"--cpus", bad, "i"}), FlagError) << bad;
    unlink(path);
    EXPECT_THROW(read_key_values(path, true), FlagError);
}

TEST(CreateBody, RefusesNonsense) {
    for (const std::vector<std::string> &bad :
         std::vector<std::vector<std::string>>{{"--ulimit", "nofile", "i"},
                                               {"--ulimit", "nofile=9:1", "i"},
                                               {"--device", "/a:/b:q", "i"},
                                               {"-a", "stdfoo", "i"},
                                               {"--rm", "--restart", "always", "i"},
                                               {"--restart", "on-failure:x", "i"},
                                               {"-e", "=x", "i"},
                                               {"-v", "rel", "i"}})
        EXPECT_THROW(body_of(bad), FlagError) << bad[0] << " " << bad[1];
}

} // namespace
} // namespace gantry::cli
