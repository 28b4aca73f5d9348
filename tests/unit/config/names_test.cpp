// [trust] and short names: what is understood, what is refused and where.
#include "core/base/files.h"
#include "core/config/config.h"

#include <cstdlib>
#include <gtest/gtest.h>

namespace gantry {
namespace {

class NamesTest : public testing::Test {
  protected:
    void SetUp() override {
        char path[] = "/tmp/gantry-names-XXXXXX";
        dir = ::mkdtemp(path);
        file = dir + "/gantry.toml";
    }
    void TearDown() override { remove_tree(dir); }
    std::shared_ptr<const EngineSettings> load(const std::string &text) {
        write_file_atomically(file, text, 0644, false);
        return EngineSettings::load({file, false, {}});
    }
    /// The message without the file's name.
    std::string refusal(const std::string &text) {
        try {
            load(text);
        } catch (const Error &error) {
            EXPECT_EQ(error.error_class(), ErrorClass::kInvalidArgument);
            EXPECT_TRUE(error.message().starts_with(file + ":")) << error.message();
            return error.message().substr(file.size() + 1);
        }
        return "accepted";
    }
    std::string dir, file;
};

TEST_F(NamesTest, TrustAcceptsUnlessToldOtherwise) {
    const auto settings = load("");
    EXPECT_EQ(settings->trust().fallback.require, TrustRequire::kAccept);
    EXPECT_TRUE(settings->trust().rules.empty());
}

TEST_F(NamesTest, RulesAreReadMostSpecificFirst) {
    const auto settings = load(R"([trust]
default = "refuse"
reason = "ask ops"
keys = ["/k/all.pub"]
[trust.rules]
"*.example.com" = "digest"
"*.b.example.com/*" = "refuse"
"Docker.io/*" = "accept"
"docker.io/library/*" = { require = "signature", threshold = 2, match = "exact" }
"index.docker.io/library/redis" = { require = "signature", keys = ["/k/a.pub", "/k/b.pub"], match = "any" }
"localhost:5000" = "accept"
)");
    const TrustConfig &trust = settings->trust();
    EXPECT_EQ(trust.fallback.require, TrustRequire::kRefuse);
    EXPECT_EQ(trust.fallback.reason, "ask ops");
    ASSERT_EQ(trust.rules.size(), 6u);
    EXPECT_EQ(trust.rules[0].host, "localhost:5000");
    EXPECT_EQ(trust.rules[1].pattern, "index.docker.io/library/redis");
    EXPECT_EQ(trust.rules[1].host, "docker.io");
    EXPECT_EQ(trust.rules[1].repository, "library/redis");
    EXPECT_FALSE(trust.rules[1].below);
    EXPECT_EQ(trust.rules[1].match, TrustMatch::kAny);
    ASSERT_EQ(trust.rules[1].keys.size(), 2u);
    EXPECT_EQ(trust.rules[1].keys[1].file, "/k/b.pub");
    EXPECT_EQ(trust.rules[1].keys[1].origin.line, 10u);
    EXPECT_EQ(trust.rules[2].repository, "library");
    EXPECT_TRUE(trust.rules[2].below);
    EXPECT_EQ(trust.rules[2].threshold, 2u);
    EXPECT_EQ(trust.rules[2].match, TrustMatch::kExact);
    ASSERT_EQ(trust.rules[2].keys.size(), 1u);
    EXPECT_EQ(trust.rules[2].keys[0].file, "/k/all.pub");
    EXPECT_EQ(trust.rules[3].host, "docker.io");
    EXPECT_EQ(trust.rules[3].repository, "");
    EXPECT_EQ(trust.rules[4].host, ".b.example.com");
    EXPECT_EQ(trust.rules[5].host, ".example.com");
}

TEST_F(NamesTest, RefusalsOfTrustNameThePlace) {
    const std::pair<const char *, const char *> cases[] = {
        {"[trust]\ndefault = \"deny\"\n",
         "2:11: trust.default must be one of accept, digest, signature, refuse, not 'deny'"},
        {"[trust]\ndefault = \"signature\"\n", "trust.default requires a signature, but no key is given"},
        {"[trust]\nkeys = [\"a.pub\"]\n", "2:9: a key must be an absolute path, not 'a.pub'"},
        {"[trust.rules.nginx]\nrequire = \"refuse\"\n",
         "1:14: trust.rules.\"nginx\" is no pattern: 'nginx' is no registry"},
        {"[trust.rules]\n\"docker.io/redis\" = \"refuse\"\n",
         "2:1: trust.rules.\"docker.io/redis\" is no pattern: no image of Docker Hub is called so"},
        {"[trust.rules]\n\"a.b/c:v1\" = \"refuse\"\n", "rules are for repositories, not for tags"},
        {"[trust.rules]\n\"a.b/\" = \"refuse\"\n", "nothing follows the /"},
        {"[trust.rules]\n\"a.b/C\" = \"refuse\"\n", "'C' is no repository"},
        {"[trust.rules]\n\"a.b/c*\" = \"refuse\"\n", "'c*' is no repository"},
        {"[trust.rules]\n\"*/c\" = \"refuse\"\n", "a repository of every registry cannot be named"},
        {"[trust.rules]\n\"a.b\" = \"refuse\"\n\"A.b/*\" = \"accept\"\n", "says the same as"},
        {"[trust.rules]\n\"a.b\" = { keys = [\"/k\"] }\n", "trust.rules.\"a.b\".require is required"},
        {"[trust.rules]\n\"a.b\" = \"signature\"\n", "requires a signature, but no key is given"},
        {"[trust.rules.\"a.b\"]\nrequire = \"accept\"\nthreshold = 0\n", "3:13:"},
        {"[trust]\nrule = 1\n", "2:1: unknown key trust.rule; did you mean 'rules'?"}};
    for (const auto &[text, words] : cases)
        EXPECT_NE(refusal(text).find(words), std::string::npos) << text << refusal(text);
}

TEST_F(NamesTest, ShortNamesAreReadExactOnesFirst) {
    const auto settings = load(R"([registry.short_names]
"internal/*" = "registry.corp:5000/internal/*"
redis = "quay.io/redis/redis"
"internal/deep/*" = "localhost/x/*"
)");
    const auto &names = settings->registry().short_names;
    ASSERT_EQ(names.size(), 3u);
    EXPECT_EQ(names[0].first, "redis");
    EXPECT_EQ(names[0].second, "quay.io/redis/redis");
    EXPECT_EQ(names[1].first, "internal/deep/*");
    EXPECT_EQ(names[2].second, "registry.corp:5000/internal/*");
}

TEST_F(NamesTest, RefusalsOfShortNamesNameThePlace) {
    const std::pair<const char *, const char *> cases[] = {
        {"\"redis:7\" = \"quay.io/a/b\"", "2:1: registry.short_names.\"redis:7\": the key must be a name"},
        {"\"quay.io/a\" = \"quay.io/a/b\"",
         "2:1: registry.short_names.\"quay.io/a\": a name with a registry"},
        {"redis = \"redis/redis\"", "2:9: registry.short_names.redis must be REGISTRY/REPOSITORY"},
        {"redis = \"quay.io/a/b:1\"", "2:9: registry.short_names.redis must be REGISTRY/REPOSITORY"},
        {"redis = \"quay.io/a/*\"", "either both sides end in /*"},
        {"\"a/*\" = \"quay.io/a\"", "either both sides end in /*"},
        {"redis = 5", "2:9: registry.short_names.redis must be a string"}};
    for (const auto &[line, words] : cases) {
        const std::string text = std::string("[registry.short_names]\n") + line + "\n";
        EXPECT_NE(refusal(text).find(words), std::string::npos) << text << refusal(text);
    }
}

} // namespace
} // namespace gantry
