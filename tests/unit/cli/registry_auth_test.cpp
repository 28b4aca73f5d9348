// Docker's config.json and its helpers.
#include "core/cli/registry_auth.h"

#include <gantry/error.hpp>

#include <boost/json.hpp>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <sys/stat.h>

namespace gantry::cli {
namespace {

namespace fs = std::filesystem;

class RegistryAuth : public ::testing::Test {
  protected:
    void SetUp() override {
        char name[] = "/tmp/gantry-auth-XXXXXX";
        folder = ::mkdtemp(name);
        path = std::getenv("PATH");
        ::setenv("DOCKER_CONFIG", (folder + "/docker").c_str(), 1);
        ::setenv("PATH", (folder + ":" + path).c_str(), 1);
        ::unsetenv("GANTRY_CONFIG_DIR");
    }
    void TearDown() override {
        ::setenv("PATH", path.c_str(), 1);
        ::unsetenv("DOCKER_CONFIG");
        ::unsetenv("GANTRY_CONFIG_DIR");
        fs::remove_all(folder);
    }
    void write(const std::string &text) {
        fs::create_directories(folder + "/docker");
        std::ofstream(folder + "/docker/config.json") << text;
    }
    std::string read() {
        std::ifstream file(folder + "/docker/config.json");
        return {std::istreambuf_iterator<char>(file), {}};
    }
    void helper(const std::string &name, const std::string &script) {
        const std::string file = folder + "/docker-credential-" + name;
        std::ofstream(file) << "#!/bin/sh\n" << script;
        ::chmod(file.c_str(), 0755);
    }
    std::string folder, path;
};

TEST_F(RegistryAuth, ServersAndReferences) {
    const std::string hub = "https://index.docker.io/v1/";
    for (const char *name : {"", "docker.io", "https://index.docker.io/v1/", "registry-1.docker.io"})
        EXPECT_EQ(login_server(name), hub) << name;
    EXPECT_EQ(login_server("https://host:5000/v2/"), "host:5000");
    EXPECT_EQ(registry_of("nginx"), hub);
    EXPECT_EQ(registry_of("user/nginx:1"), hub);
    EXPECT_EQ(registry_of("localhost/x"), "localhost");
    EXPECT_EQ(registry_of("host:5000/a/b@sha256:x"), "host:5000");
}

TEST_F(RegistryAuth, StoresBesideWhatIsThere) {
    write(R"({"psFormat":"x","auths":{"other":{"auth":"YTpi"}},"HttpHeaders":{"A":["b"]}})");
    const std::string file = AuthConfig().store({"host:5000", "user", "p:w", "", ""});
    EXPECT_EQ(file, folder + "/docker/config.json");
    struct stat st {};
    ASSERT_EQ(::stat(file.c_str(), &st), 0);
    EXPECT_EQ(st.st_mode & 0777, 0600u);
    EXPECT_EQ(boost::json::parse(read()),
              boost::json::parse(R"({"psFormat":"x","auths":{"other":{"auth":"YTpi"},
                "host:5000":{"auth":"dXNlcjpwOnc="}},"HttpHeaders":{"A":["b"]}})"));
    const RegistryLogin found = AuthConfig().find("host:5000");
    EXPECT_EQ(found.username, "user");
    EXPECT_EQ(found.password, "p:w");
    EXPECT_TRUE(AuthConfig().erase("host:5000"));
    EXPECT_FALSE(AuthConfig().erase("host:5000"));
    EXPECT_TRUE(AuthConfig().find("host:5000").empty());
    EXPECT_EQ(AuthConfig().find("other").username, "a");
}

TEST_F(RegistryAuth, MakesTheFolderAndKeepsALink) {
    AuthConfig().store({"h", "u", "p", "", ""});
    struct stat st {};
    ASSERT_EQ(::stat((folder + "/docker").c_str(), &st), 0);
    EXPECT_EQ(st.st_mode & 0777, 0700u);
    fs::rename(folder + "/docker/config.json", folder + "/elsewhere");
    fs::create_symlink(folder + "/elsewhere", folder + "/docker/config.json");
    AuthConfig().store({"h2", "u", "p", "", ""});
    EXPECT_TRUE(fs::is_symlink(folder + "/docker/config.json"));
    EXPECT_EQ(AuthConfig().find("h").username, "u");
}

TEST_F(RegistryAuth, GantrysOwnFolderWins) {
    ::setenv("GANTRY_CONFIG_DIR", (folder + "/own").c_str(), 1);
    EXPECT_EQ(AuthConfig().store({"h", "u", "p", "", ""}), folder + "/own/config.json");
}

TEST_F(RegistryAuth, IdentityTokenReplacesThePassword) {
    AuthConfig().store({"h", "u", "", "tok", ""});
    const RegistryLogin found = AuthConfig().find("h");
    EXPECT_EQ(found.identity_token, "tok");
    EXPECT_EQ(found.password, "");
    EXPECT_EQ(decode_base64(encode_registry_auth(found)),
              R"({"username":"u","password":"","serveraddress":"h","identitytoken":"tok"})");
    EXPECT_EQ(encode_registry_auth({}), "e30=");
}

TEST_F(RegistryAuth, DamagedFileIsNotOverwritten) {
    write("{\"auths\":");
    EXPECT_THROW(AuthConfig(), Error);
    EXPECT_EQ(read(), "{\"auths\":");
}

TEST_F(RegistryAuth, HelperKeepsTheSecret) {
    write(R"({"credHelpers":{"h:5000":"test"},"credsStore":"none-such"})");
    helper("test", "case $1 in store) cat > " + folder + "/kept;; get) read s; [ \"$s\" = h:5000 ] && cat " +
                       folder + "/kept || { echo credentials not found in native keychain; exit 1; };; " +
                       "erase) rm " + folder + "/kept;; esac\n");
    EXPECT_TRUE(AuthConfig().find("h:5000").empty()) << "not found is no error";
    EXPECT_EQ(AuthConfig().store({"h:5000", "user", "secret", "", ""}), "");
    EXPECT_EQ(read().find("secret"), std::string::npos);
    EXPECT_EQ(read().find("c2VjcmV0"), std::string::npos);
    EXPECT_EQ(AuthConfig().find("h:5000").password, "secret");
    EXPECT_TRUE(AuthConfig().erase("h:5000"));
    EXPECT_FALSE(fs::exists(folder + "/kept"));
    EXPECT_THROW(AuthConfig().find("elsewhere"), Error) << "the store that is named does not exist";
}

TEST_F(RegistryAuth, HelpersAreBoundedAndJudged) {
    helper("endless", "while :; do echo 0123456789012345678901234567890123456789; done\n");
    helper("broken", "echo it is locked; exit 3\n");
    helper("deaf", "exit 0\n");
    EXPECT_THROW(run_credential_helper("endless", "get", "x"), Error);
    try {
        run_credential_helper("broken", "get", "x");
        FAIL() << "no error";
    } catch (const Error &error) {
        EXPECT_NE(error.message().find("it is locked"), std::string::npos);
    }
    EXPECT_EQ(run_credential_helper("deaf", "store", std::string(1 << 20, 'x')), "");
    EXPECT_THROW(run_credential_helper("../x", "get", "x"), Error);
    EXPECT_THROW(run_credential_helper("none-such-helper", "get", "x"), Error);
    helper("token", R"(echo '{"Username":"<token>","Secret":"tok"}')");
    write(R"({"credsStore":"token"})");
    EXPECT_EQ(AuthConfig().find("h").identity_token, "tok");
}

} // namespace
} // namespace gantry::cli
