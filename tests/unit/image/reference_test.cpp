// References: the tables of distribution/reference and of docker's normalisation, and what must be refused.
#include "core/image/images.h"

#include <gtest/gtest.h>

namespace {

using namespace gantry;

const std::string kHex(64, 'a');

TEST(Reference, Good) {
    struct Row {
        std::string text, registry, repository, tag, digest, familiar;
    };
    const Row rows[] = {
        {"nginx", "docker.io", "library/nginx", "latest", "", "nginx:latest"},
        {"nginx:1.25", "docker.io", "library/nginx", "1.25", "", "nginx:1.25"},
        {"user/app", "docker.io", "user/app", "latest", "", "user/app:latest"},
        {"docker.io/nginx", "docker.io", "library/nginx", "latest", "", "nginx:latest"},
        {"index.docker.io/library/nginx:x", "docker.io", "library/nginx", "x", "", "nginx:x"},
        {"localhost/a", "localhost", "a", "latest", "", "localhost/a:latest"},
        {"localhost:5000/a/b:t", "localhost:5000", "a/b", "t", "", "localhost:5000/a/b:t"},
        {"ghcr.io/o/r/x:v1.0_a-b", "ghcr.io", "o/r/x", "v1.0_a-b", "", "ghcr.io/o/r/x:v1.0_a-b"},
        {"[::1]:5000/a", "[::1]:5000", "a", "latest", "", "[::1]:5000/a:latest"},
        {"Host/a", "Host", "a", "latest", "", "Host/a:latest"},
        {"a__b/c---d.e", "docker.io", "a__b/c---d.e", "latest", "", "a__b/c---d.e:latest"},
        {"nginx@sha256:" + kHex, "docker.io", "library/nginx", "", "sha256:" + kHex, "nginx@sha256:" + kHex},
        {"nginx:t@sha256:" + kHex, "docker.io", "library/nginx", "t", "sha256:" + kHex,
         "nginx:t@sha256:" + kHex},
        {"host:5000", "docker.io", "library/host", "5000", "", "host:5000"},
    };
    for (const Row &row : rows) {
        const auto ref = parse_reference(row.text, "docker.io", true);
        EXPECT_EQ(ref.registry, row.registry) << row.text;
        EXPECT_EQ(ref.repository, row.repository) << row.text;
        EXPECT_EQ(ref.tag, row.tag) << row.text;
        EXPECT_EQ(ref.digest, row.digest) << row.text;
        EXPECT_EQ(ref.familiar(), row.familiar) << row.text;
    }
    EXPECT_EQ(parse_reference("nginx", "docker.io", false).tag, "");
    EXPECT_EQ(parse_reference("nginx", "r.example", true).full(), "r.example/nginx:latest");
}

TEST(Reference, Bad) {
    const std::string rows[] = {
        "",
        ":tag",
        "@sha256:" + kHex,
        "nginx:",
        "nginx@",
        "nginx:-x",
        "nginx:.x",
        "a//b",
        "/a",
        "a/",
        "a/../b",
        "../../etc/passwd",
        "a..b",
        "a___b",
        "-a",
        "a-",
        "_a",
        "a b",
        "a\n",
        "a:b:c",
        "nginx@sha256:abc",
        "nginx@sha256:" + std::string(64, 'G'),
        "nginx@md5:" + std::string(32, 'a'),
        "host:port/a",
        "host:/a",
        "-h.x/a",
        "h-.x/a",
        "a.b:123456/c",
        "[zz]/a",
        "nginx:" + std::string(129, 'x'),
        "n\xc3\xa4me",
        "a%2fb",
        "http://x/y",
        std::string(1, '\0') + "a",
    };
    for (const auto &row : rows) {
        try {
            parse_reference(row, "docker.io", true);
            ADD_FAILURE() << "accepted: " << row;
        } catch (const Error &error) {
            EXPECT_EQ(error.error_class(), ErrorClass::kInvalidArgument) << row;
            EXPECT_TRUE(error.message().starts_with("invalid reference format"))
                << row << ": " << error.message();
        }
    }
}

TEST(Reference, Messages) {
    auto message = [](const std::string &text) -> std::string {
        try {
            parse_reference(text, "docker.io", true);
        } catch (const Error &error) {
            return error.message();
        }
        return "accepted";
    };
    EXPECT_EQ(message("Nginx"), "invalid reference format: repository name must be lowercase");
    EXPECT_EQ(message(kHex),
              "invalid repository name (" + kHex + "), cannot specify 64-byte hexadecimal strings");
    EXPECT_EQ(message(std::string(300, 'a')), "repository name must not be more than 255 characters");
}

TEST(Reference, ShortNamesHaveOneMeaning) {
    RegistryConfig config;
    config.short_names = {
        {"redis", "quay.io/redis/redis"}, {"team/deep/*", "localhost/d/*"}, {"team/*", "r.corp:5000/team/*"}};
    const std::string digest = "sha256:" + std::string(64, 'a');
    const std::pair<std::string, std::string> cases[] = {
        {"redis", "quay.io/redis/redis:latest"},
        {"redis:7", "quay.io/redis/redis:7"},
        {"redis@" + digest, "quay.io/redis/redis@" + digest},
        {"redis:7@" + digest, "quay.io/redis/redis:7@" + digest},
        {"redis/redis", "docker.io/redis/redis:latest"},
        {"library/redis", "docker.io/library/redis:latest"},
        {"docker.io/redis", "docker.io/library/redis:latest"},
        {"docker.io/library/redis:7", "docker.io/library/redis:7"},
        {"team/a/b:1", "r.corp:5000/team/a/b:1"},
        {"team/deep/x", "localhost/d/x:latest"},
        {"team", "docker.io/library/team:latest"},
        {"teams/x", "docker.io/teams/x:latest"},
        {"localhost:5000/redis", "localhost:5000/redis:latest"},
        {"nginx", "docker.io/library/nginx:latest"}};
    for (const auto &[text, meaning] : cases)
        EXPECT_EQ(parse_reference(text, config, true).full(), meaning) << text;
    EXPECT_EQ(parse_reference("redis", config, false).tag, "");
    for (const char *bad : {"redis:", "redis@sha256:1", "team/", "team/A", ""})
        EXPECT_THROW(parse_reference(bad, config, true), Error) << bad;
}

} // namespace
