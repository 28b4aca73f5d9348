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

} // namespace
