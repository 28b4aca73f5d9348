// What is accepted, what is refused and with which words.
#include "core/base/files.h"
#include "core/config/config.h"

#include <cstdlib>
#include <map>
#include <gantry/value.hpp>
#include <gtest/gtest.h>

namespace gantry {
namespace {

constexpr gantry_option kMirrorKeys[] = {
    option_string("url", nullptr, "address", nullptr, GANTRY_OPTION_REQUIRED),
    option_bool("resolve_tags", "true", "trusted"),
    option_string("password", "\"\"", "secret", nullptr, GANTRY_OPTION_SECRET),
};
constexpr gantry_option kMirror = option_table("", kMirrorKeys, 3, "one mirror", "url");
constexpr gantry_option kHostKeys[] = {option_list("mirrors", "[]", &kMirror, "mirrors")};
constexpr gantry_option kHost = option_table("", kHostKeys, 1, "one host");
constexpr gantry_option kOci[] = {option_map("hosts", &kHost, "hosts"),
                                  option_duration("stall_timeout", "\"30s\"", "stall")};
const DriverSchema kOciSchema{GANTRY_KIND_REGISTRY, "oci", kOci, 2};

class ConfigTest : public testing::Test {
  protected:
    void SetUp() override {
        char path[] = "/tmp/gantry-config-XXXXXX";
        dir = ::mkdtemp(path);
        file = dir + "/gantry.toml";
    }
    void TearDown() override { remove_tree(dir); }
    void write(const std::string &text) { write_file_atomically(file, text, 0644, false); }
    std::shared_ptr<const EngineSettings> load(std::vector<std::pair<std::string, std::string>> flags = {}) {
        return EngineSettings::load({file, false, flags});
    }
    std::string refusal(const std::string &text,
                        std::vector<std::pair<std::string, std::string>> flags = {}) {
        write(text);
        try {
            load(flags)->validate({kOciSchema});
        } catch (const Error &e) {
            EXPECT_EQ(e.error_class(), ErrorClass::kInvalidArgument) << e.message();
            const size_t at = e.message().find(file + ":");
            return at == 0 ? e.message().substr(file.size() + 1) : e.message();
        }
        return "accepted";
    }
    std::string dir, file;
};

TEST_F(ConfigTest, RefusalsNamePlaceAndWayOut) {
    const std::pair<const char *, const char *> cases[] = {
        {"[engine]\nrot = \"/x\"\n", "2:1: unknown key engine.rot; did you mean 'root'?"},
        {"[engin]\nroot = \"/x\"\n", "1:2: unknown section engin; did you mean 'engine'?"},
        {"[engine]\nroot = 4\n", "2:8: engine.root must be a string, not an integer"},
        {"[engine]\nroot = \"x\"\n", "2:8: engine.root must be an absolute path, not 'x'"},
        {"[engine]\nroot = \"/a\"\nroot = \"/b\"\n", "3:"},
        {"[engine]\nwarm_sandboxes = 65\n", "2:18: engine.warm_sandboxes must be between 0 and 64"},
        {"[engine]\ncall_timeout = \"5 parsecs\"\n",
         "2:16: engine.call_timeout must be a duration like \"30s\", not"},
        {"[engine]\ncall_timeout = 5\n",
         "2:16: engine.call_timeout must be a duration like \"30s\", not an integer"},
        {"[engine]\nlog_max_size = \"1XB\"\n", "2:16: engine.log_max_size must be a size"},
        {"[engine]\nlog_level = \"inf\"\n",
         "2:13: engine.log_level must be one of debug, info, warn, error, not 'inf'; did you mean 'info'?"},
        {"[engine]\ndns = [\"1.1.1.1\", 5]\n", "2:19: engine.dns[1] must be a string, not an integer"},
        {"[engine]\ndefault_runtime = \"kata\"\n", "2:19: engine.default_runtime 'kata' is neither"},
        {"[storage]\ndurable = \"yes\"\n", "2:11: storage.durable must be a boolean, not a string"},
        {"[storage]\ndrivr = \"overlay\"\n", "2:1: unknown key storage.drivr; did you mean 'driver'?"},
        {"[registry.ocii]\nx = 1\n",
         "1:11: [registry.ocii] configures a driver that no plugin offers; did you mean 'oci'?"},
        {"[registry.oci]\nstall = \"1s\"\n", "2:1: unknown key registry.oci.stall"},
        {"[registry.oci.hosts.\"a.b\"]\nmirrors = [{resolve_tags = true}]\n",
         "2:12: registry.oci.hosts.\"a.b\".mirrors[0].url is required"},
        {"[registry.oci.hosts.\"a.b\"]\nmirrors = [7]\n", "must be a table or a string"},
        {"[plugins.\"x.so\"]\nsha256 = \"12\"\n", "must be 64 hex digits"},
        {"[engine\n", "1:"},
        {"a = 1\n", "1:1: unknown key a"}};
    for (const auto &[text, words] : cases) {
        const std::string said = refusal(text);
        EXPECT_NE(said.find(words), std::string::npos) << text << "-> " << said;
    }
    EXPECT_NE(refusal("", {{"engine.rot", "/x"}}).find("flag: unknown key engine.rot"), std::string::npos);
    EXPECT_NE(refusal("", {{"engine root", "/x"}}).find("no option's name"), std::string::npos);
}

TEST_F(ConfigTest, DefaultsFilesAndFlagsInOrder) {
    write("[engine]\nroot = \"/one\"\nrun = \"/r\"\nstop_timeout = \"1m30s\"\nlog_max_size = \"1MiB\"\n"
          "[engine.runtimes]\ncrun = \"/usr/bin/crun\"\n");
    make_directories(dir + "/conf.d", 0755);
    write_file_atomically(dir + "/conf.d/10-a.toml", "[engine]\nroot = \"/two\"\ndns = [\"1.1.1.1\"]\n", 0644,
                          false);
    write_file_atomically(dir + "/conf.d/20-b.toml", "[engine]\nroot = \"/three\"\n", 0644, false);
    write_file_atomically(dir + "/conf.d/README", "not TOML", 0644, false);
    const auto s =
        load({{"engine.warm_sandboxes", "0"}, {"storage.prefer", "vfs,overlay"}, {"engine.run", "/flag"}});
    EXPECT_EQ(s->engine().root, "/three");
    EXPECT_EQ(s->engine().run, "/flag");
    EXPECT_EQ(s->engine().socket, "/flag/gantry.sock");
    EXPECT_EQ(s->engine().stop_timeout_s, 90u);
    EXPECT_EQ(s->engine().log_max_size, 1u << 20);
    EXPECT_EQ(s->engine().dns, std::vector<std::string>{"1.1.1.1"});
    EXPECT_EQ(s->engine().warm_sandboxes, 0u);
    EXPECT_EQ(s->engine().call_timeout_ns, 120ll * 1000000000);
    EXPECT_EQ(s->engine().runtimes.size(), 2u);
    EXPECT_EQ(s->storage().prefer, (std::vector<std::string>{"vfs", "overlay"}));
    EXPECT_EQ(s->registry().default_registry, "docker.io");
    ASSERT_EQ(s->engine().plugin_dirs.size(), 1u);
    EXPECT_TRUE(s->engine().plugin_dirs[0].ends_with("lib/gantry/plugins"));
    std::map<std::string, ShownOption> shown;
    for (const ShownOption &o : s->show({kOciSchema}))
        shown[o.key] = o;
    EXPECT_EQ(shown["engine.root"].origin.source, dir + "/conf.d/20-b.toml");
    EXPECT_EQ(shown["engine.root"].origin.line, 2u);
    EXPECT_EQ(shown["engine.run"].origin.source, "flag");
    EXPECT_EQ(shown["engine.shim"].origin.source, "default");
    EXPECT_EQ(shown["engine.stop_timeout"].value, "\"1m30s\"");
    EXPECT_EQ(shown["registry.oci.stall_timeout"].value, "\"30s\"");
}

TEST_F(ConfigTest, DriverTreeWithShorthandAndSecrets) {
    write("[registry.oci.hosts.\"docker.io\"]\n"
          "mirrors = [\"https://a\", { url = \"https://b\", resolve_tags = false, password = \"pw\" }]\n");
    const auto s = load();
    s->validate({kOciSchema});
    const auto raw = s->driver_options(kOciSchema);
    const Config config(raw.get());
    EXPECT_EQ(config.duration_ns("stall_timeout"), 30ll * 1000000000);
    const Config hosts = config.child("hosts");
    ASSERT_EQ(hosts.count(), 1u);
    EXPECT_EQ(hosts.key(0), "docker.io");
    const Config mirrors = hosts.item(0).child("mirrors");
    ASSERT_EQ(mirrors.count(), 2u);
    EXPECT_EQ(mirrors.item(0).string("url"), "https://a");
    EXPECT_TRUE(mirrors.item(0).boolean("resolve_tags"));
    EXPECT_EQ(mirrors.item(1).string("password"), "pw");
    EXPECT_FALSE(mirrors.item(1).boolean("resolve_tags"));
    std::string all;
    for (const ShownOption &o : s->show({kOciSchema}))
        all += o.key + " = " + o.value + "\n";
    EXPECT_NE(all.find("\"***\""), std::string::npos);
    EXPECT_EQ(all.find("pw"), std::string::npos) << all;
}

TEST_F(ConfigTest, ChainOfRegistryDrivers) {
    write("");
    EXPECT_EQ(load()->registry().drivers, std::vector<std::string>{"oci"});
    write("[registry]\ndriver = \"layout\"\n");
    EXPECT_EQ(load()->registry().drivers, std::vector<std::string>{"layout"});
    const DriverSchema layout{GANTRY_KIND_REGISTRY, "layout", nullptr, 0};
    write("[registry]\ndriver = \"oci\"\ndrivers = [\"layout\", \"oci\"]\n");
    EXPECT_EQ(load()->registry().drivers, (std::vector<std::string>{"layout", "oci"}));
    const auto notices = load()->validate({layout, kOciSchema});
    ASSERT_EQ(notices.size(), 1u);
    EXPECT_NE(notices[0].find("registry.driver is not used"), std::string::npos) << notices[0];
    const auto message = [&](const std::vector<DriverSchema> &schemas) -> std::string {
        try {
            load()->validate(schemas);
        } catch (const Error &error) {
            return error.message() + " | " + error.hint();
        }
        return "";
    };
    EXPECT_NE(message({kOciSchema})
                  .find("registry.drivers names 'layout', which no plugin offers | install "
                        "the package gantry-plugin-registry-layout"),
              std::string::npos)
        << message({kOciSchema});
    write("[registry]\ndrivers = [\"oci\", \"oci\"]\n");
    EXPECT_NE(message({kOciSchema}).find("2:11: registry.drivers names 'oci' twice"), std::string::npos)
        << message({kOciSchema});
    // The table of a link of the chain is no orphan of a package that is not installed.
    write("[registry]\ndrivers = [\"oci\", \"peer\"]\n[registry.peer]\nlisten = \"x\"\n");
    EXPECT_NE(message({kOciSchema}).find("names 'peer'"), std::string::npos);
    write("[registry.peer]\nlisten = \"x\"\n");
    EXPECT_EQ(load()->validate({kOciSchema}).size(), 1u);
}

TEST_F(ConfigTest, MissingFile) {
    EXPECT_THROW(load(), Error);
    EXPECT_NO_THROW(EngineSettings::load({file, true, {}}));
}

TEST_F(ConfigTest, DocumentationIsAValidFileOfDefaults) {
    const std::string docs = config_docs({kOciSchema});
    EXPECT_NE(docs.find("#warm_sandboxes = 2"), std::string::npos);
    EXPECT_NE(docs.find("[registry.oci]"), std::string::npos);
    write(docs);
    load()->validate({kOciSchema});
    std::string open; // with all defaults uncommented it must still be valid
    for (size_t at = 0; at < docs.size();) {
        const size_t end = docs.find('\n', at);
        std::string line = docs.substr(at, end - at);
        if (line.size() > 1 && line[0] == '#' && line[1] != ' ' && line[1] != '[' &&
            line.find("sha256") == line.npos)
            line.erase(0, 1);
        open += line + "\n";
        at = end + 1;
    }
    write(open);
    EXPECT_NO_THROW(load()->validate({kOciSchema})) << open;
}

TEST_F(ConfigTest, ImportsDockersFile) {
    const std::string toml = import_docker_config(
        R"({"registry-mirrors": ["https://m.example"], "insecure-registries": ["r.example:5000", "10.0.0.0/8"],
            "storage-driver": "overlay2", "bip": "10.9.0.1/24", "log-opts": {"max-size": "10m", "max-file": "5"},
            "data-root": "/data", "hosts": ["unix:///run/d.sock", "tcp://0.0.0.0:2375"], "dns": ["9.9.9.9"],
            "live-restore": true, "experimental": true, "debug": true, "log-level": "info"})",
        "daemon.json");
    for (const char *line :
         {"[registry.oci.hosts.\"docker.io\"]\nmirrors = [\"https://m.example\"]", "driver = \"overlay\"",
          "[registry.oci.hosts.\"r.example:5000\"]\nskip_verify = true", "subnet = \"10.9.0.0/24\"",
          "log_max_size = \"10MiB\"", "log_max_files = 5", "root = \"/data\"", "socket = \"/run/d.sock\"",
          "dns = [\"9.9.9.9\"]", "# \"experimental\": true : no counterpart", "# \"live-restore\": true",
          "tcp://0.0.0.0:2375\" : no counterpart"})
        EXPECT_NE(toml.find(line), std::string::npos) << line << "\n" << toml;
    write(toml);
    EXPECT_NO_THROW(load()) << toml;
    try {
        import_docker_config("{\n  \"a\": ,\n}", "daemon.json");
        FAIL();
    } catch (const Error &e) {
        EXPECT_NE(e.message().find("daemon.json:2:"), std::string::npos) << e.message();
    }
}

} // namespace
} // namespace gantry
