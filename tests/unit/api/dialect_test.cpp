#include "core/api/dialect.h"
#include "core/container/containers.h"

#include <gantry/error.hpp>
#include <gtest/gtest.h>

namespace gantry::api {
namespace {

constexpr int64_t kSecond = 1'000'000'000;

TEST(Dialect, booleans_of_every_client) {
    for (const char *yes : {"1", "true", "True", "yes", "t"})
        EXPECT_TRUE(parse_bool(yes)) << yes;
    for (const char *no : {"", "0", "false", "False", "no", "none", " 0 "})
        EXPECT_FALSE(parse_bool(no)) << no;
}

TEST(Dialect, filters_in_three_shapes) {
    const std::vector<std::string> allowed = {"label", "name"};
    EXPECT_EQ(Filters(R"({"label":{"a=b":true}})", allowed).values("label"), std::vector<std::string>{"a=b"});
    EXPECT_EQ(Filters(R"({"label":["a=b"]})", allowed).values("label"), std::vector<std::string>{"a=b"});
    EXPECT_FALSE(Filters("", allowed).has("label"));
    EXPECT_FALSE(Filters("{}", allowed).has("label"));
    EXPECT_FALSE(Filters(R"({"label":{"a":false}})", allowed).has("label"));
    EXPECT_EQ(Filters(R"({"name":[true,1]})", allowed).values("name"),
              (std::vector<std::string>{"true", "1"}));
}

TEST(Dialect, bad_filters_are_refused) {
    for (const char *bad : {R"({"colour":["red"]})", "{", "[]", "7", R"({"label":7})"})
        EXPECT_THROW(Filters(bad, {"label"}), Error) << bad;
    try {
        Filters(R"({"colour":["red"]})", {"label"});
    } catch (const Error &error) {
        EXPECT_EQ(error.error_class(), ErrorClass::kInvalidArgument);
        EXPECT_EQ(error.message(), "invalid filter 'colour'");
    }
}

TEST(Dialect, filters_match) {
    const std::map<std::string, std::string> labels = {{"a", "b"}, {"c", ""}};
    EXPECT_TRUE(Filters(R"({"label":["a=b","c"]})", {"label"}).match_labels("label", labels));
    EXPECT_FALSE(Filters(R"({"label":["a=b","d"]})", {"label"}).match_labels("label", labels));
    EXPECT_FALSE(Filters(R"({"label":["a=x"]})", {"label"}).match_labels("label", labels));
    const Filters name(R"({"name":["^/web$"]})", {"name"});
    EXPECT_TRUE(name.match_pattern("name", "/web"));
    EXPECT_FALSE(name.match_pattern("name", "/web2"));
    EXPECT_FALSE(Filters(R"({"name":["("]})", {"name"}).match_pattern("name", "/web"));
    EXPECT_EQ(Filters(R"({"dangling":{"true":true}})", {"dangling"}).boolean("dangling"), 1);
    EXPECT_EQ(Filters("", {"dangling"}).boolean("dangling"), -1);
    EXPECT_THROW(Filters(R"({"dangling":["maybe"]})", {"dangling"}).boolean("dangling"), Error);
}

TEST(Dialect, durations_as_docker_says_them) {
    const std::pair<int64_t, const char *> cases[] = {
        {0, "Less than a second"}, {1, "1 second"},          {5, "5 seconds"},          {59, "59 seconds"},
        {60, "About a minute"},    {119, "About a minute"},  {120, "2 minutes"},        {3599, "59 minutes"},
        {3600, "About an hour"},   {2 * 3600, "2 hours"},    {47 * 3600, "47 hours"},   {48 * 3600, "2 days"},
        {14 * 86400, "2 weeks"},   {60 * 86400, "2 months"}, {800ll * 86400, "2 years"}};
    for (const auto &[seconds, text] : cases)
        EXPECT_EQ(human_duration(seconds * kSecond), text);
}

TEST(Dialect, status_sentences) {
    const int64_t now = 1000 * kSecond;
    ContainerState state;
    EXPECT_EQ(status_sentence(state, now), "Created");
    state.status = "running", state.running = true, state.started_ns = now - 5 * kSecond;
    EXPECT_EQ(status_sentence(state, now), "Up 5 seconds");
    state.health = "starting";
    EXPECT_EQ(status_sentence(state, now), "Up 5 seconds (health: starting)");
    state.health = "healthy";
    EXPECT_EQ(status_sentence(state, now), "Up 5 seconds (healthy)");
    state.paused = true;
    EXPECT_EQ(status_sentence(state, now), "Up 5 seconds (Paused)");
    state = {};
    state.status = "exited", state.exit_code = 3, state.started_ns = 1,
    state.finished_ns = now - 120 * kSecond;
    EXPECT_EQ(status_sentence(state, now), "Exited (3) 2 minutes ago");
    state.status = "restarting", state.restarting = true;
    EXPECT_EQ(status_sentence(state, now), "Restarting (3) 2 minutes ago");
    state = {};
    state.status = "removing";
    EXPECT_EQ(status_sentence(state, now), "Removal In Progress");
}

TEST(Dialect, sizes_and_bars) {
    EXPECT_EQ(human_size(0), "0B");
    EXPECT_EQ(human_size(36450), "36.45kB");
    EXPECT_EQ(human_size(1.069e6), "1.069MB");
    EXPECT_EQ(progress_bar(0, 0), "");
    EXPECT_EQ(progress_bar(1000, 1000), "[" + std::string(50, '=') + ">]      1kB/1kB");
    EXPECT_EQ(progress_bar(500, 0), "    500B");
}

TEST(Dialect, credentials_in_headers) {
    EXPECT_FALSE(decode_credential(""));
    EXPECT_FALSE(decode_credential("e30="));
    EXPECT_FALSE(decode_credential("not base64!"));
    // {"username":"u","password":"p?>","serveraddress":"r"} in both alphabets
    for (const char *text : {"eyJ1c2VybmFtZSI6InUiLCJwYXNzd29yZCI6InA_PiIsInNlcnZlcmFkZHJlc3MiOiJyIn0=",
                             "eyJ1c2VybmFtZSI6InUiLCJwYXNzd29yZCI6InA/PiIsInNlcnZlcmFkZHJlc3MiOiJyIn0"}) {
        auto credential = decode_credential(text);
        ASSERT_TRUE(credential) << text;
        EXPECT_EQ(credential->username, "u");
        EXPECT_EQ(credential->password, "p?>");
        EXPECT_EQ(credential->server, "r");
    }
}

TEST(Dialect, integers_name_their_parameter) {
    EXPECT_EQ(parse_integer("", 7, "t"), 7);
    EXPECT_EQ(parse_integer("-1", 7, "t"), -1);
    EXPECT_THROW(parse_integer("5x", 0, "t"), Error);
    EXPECT_THROW(parse_integer("99999999999999999999", 0, "t"), Error);
}

} // namespace
} // namespace gantry::api
