// The oci registry driver against servers that fail in every way promised to be survived.
#include "oci_fixture.h"

#include <chrono>
#include <gtest/gtest.h>

namespace {

using namespace oci_test;

TEST(OciResolve, PlainRegistryOnLoopbackFallsBackToHttpAndRemembers) {
    FaultServer server([](const FaultRequest &) { return manifest_reply(); });
    OciDriver driver{Options{}};
    TestCall call;
    std::string body;
    const auto first = driver.resolve(call, {server.host(), "a/b", "v1", ""}, std::nullopt, &body);
    EXPECT_EQ(first.digest, kManifestDigest);
    EXPECT_EQ(first.media_type, kType);
    EXPECT_EQ(body, kManifest);
    ASSERT_EQ(server.seen().size(), 1u);
    EXPECT_EQ(server.seen()[0].path, "/v2/a/b/manifests/v1");
    EXPECT_NE(server.seen()[0].header("accept").find("manifest.list.v2"), std::string::npos);
    EXPECT_EQ(driver.explain(call, {server.host(), "a/b", "v1", ""})[0].url, server.url());
}

TEST(OciResolve, DeadMirrorThenNextThenOriginAndTheDeadOneRests) {
    FaultServer origin([](const FaultRequest &) { return manifest_reply(); });
    FaultServer broken([](const FaultRequest &) {
        return FaultReply{500, "", {}, std::string::npos, false};
    });
    OciDriver driver(with_mirrors("docker.io", {dead_url(), broken.url()}, origin.url()));
    TestCall call;
    const RegistryReference ref{"docker.io", "library/busybox", "latest", ""};
    EXPECT_EQ(driver.resolve(call, ref, std::nullopt, nullptr).endpoint, origin.url());
    EXPECT_EQ(broken.seen().size(), 1u);
    const auto lines = driver.explain(call, ref);
    ASSERT_EQ(lines.size(), 3u);
    EXPECT_EQ(lines[0].role, "origin"); // both mirrors rest behind it
    EXPECT_NE(lines[2].state.find("resting"), std::string::npos);
    driver.resolve(call, ref, std::nullopt, nullptr);
    EXPECT_EQ(broken.seen().size(), 1u) << "a resting endpoint was asked first";
}

TEST(OciResolve, NotFoundOnlyWhenAllSaySo) {
    auto not_found = [](const FaultRequest &) { return FaultReply{404, "", {}, std::string::npos, false}; };
    FaultServer mirror(not_found), origin(not_found);
    TestCall call;
    OciDriver both(with_mirrors("docker.io", {mirror.url()}, origin.url()));
    auto error = error_of([&] { both.resolve(call, {"docker.io", "a/b", "x", ""}, std::nullopt, nullptr); });
    EXPECT_EQ(error.error_class(), ErrorClass::kNotFound);
    EXPECT_NE(error.message().find(mirror.url() + ": HTTP 404"), std::string::npos) << error.message();
    EXPECT_NE(error.message().find(origin.url() + ": HTTP 404"), std::string::npos) << error.message();

    OciDriver one_dead(with_mirrors("docker.io", {mirror.url()}, dead_url()));
    error = error_of([&] { one_dead.resolve(call, {"docker.io", "a/b", "x", ""}, std::nullopt, nullptr); });
    EXPECT_EQ(error.error_class(), ErrorClass::kUnavailable);
}

TEST(OciResolve, MirrorWithoutTheRightIsNotAskedForTags) {
    FaultServer mirror([](const FaultRequest &) { return manifest_reply(); });
    FaultServer origin([](const FaultRequest &) { return manifest_reply(); });
    auto options = with_mirrors("docker.io", {mirror.url()}, origin.url());
    options.hosts["docker.io"].mirrors[0].rights.resolve_tags = false;
    OciDriver driver(options);
    TestCall call;
    EXPECT_EQ(driver.resolve(call, {"docker.io", "a/b", "x", ""}, std::nullopt, nullptr).endpoint,
              origin.url());
    EXPECT_TRUE(mirror.seen().empty());
    EXPECT_EQ(driver.resolve(call, {"docker.io", "a/b", "", kManifestDigest}, std::nullopt, nullptr).endpoint,
              mirror.url());
}

TEST(OciResolve, LyingMirrorIsPassedOverForADigest) {
    FaultServer mirror([](const FaultRequest &) {
        return FaultReply{200, "{}", {}, std::string::npos, false};
    });
    FaultServer origin([](const FaultRequest &) { return manifest_reply(); });
    OciDriver driver(with_mirrors("docker.io", {mirror.url()}, origin.url()));
    TestCall call;
    EXPECT_EQ(driver.resolve(call, {"docker.io", "a/b", "", kManifestDigest}, std::nullopt, nullptr).endpoint,
              origin.url());
    EXPECT_EQ(mirror.seen().size(), 1u);
}

TEST(OciResolve, OversizedManifestIsRefused) {
    FaultServer server([](const FaultRequest &) {
        return FaultReply{200, std::string((4 << 20) + 1, ' '), {}, std::string::npos, false};
    });
    OciDriver driver{Options{}};
    TestCall call;
    const auto error = error_of([&] {
        driver.resolve(call, {server.host(), "a/b", "x", ""}, std::nullopt, nullptr);
    });
    EXPECT_NE(error.message().find("larger than"), std::string::npos) << error.message();
}

TEST(OciAuth, BearerTokenIsFetchedOnceAndCached) {
    FaultServer *self = nullptr;
    FaultServer server([&](const FaultRequest &request) -> FaultReply {
        if (request.path.starts_with("/token"))
            return {200, R"({"token":"T0K","expires_in":300})", {}, std::string::npos, false};
        if (request.header("authorization") == "Bearer T0K") return manifest_reply();
        return challenge("Bearer realm=\"" + self->url() +
                         "/token?x=1\",service=\"reg\",scope=\"repository:a/b:pull\"");
    });
    self = &server;
    OciDriver driver{Options{}};
    TestCall call;
    const Credential credential{server.host(), "user", "pass word", "", ""};
    for (int i = 0; i < 2; ++i)
        EXPECT_EQ(driver.resolve(call, {server.host(), "a/b", "x", ""}, credential, nullptr).digest,
                  kManifestDigest);
    const auto seen = server.seen();
    ASSERT_EQ(seen.size(), 4u); // 401, token, manifest; then straight to the manifest
    EXPECT_EQ(seen[1].path, "/token?x=1&service=reg&scope=repository%3Aa%2Fb%3Apull&account=user");
    EXPECT_EQ(seen[1].header("authorization"), "Basic dXNlcjpwYXNzIHdvcmQ=");
    EXPECT_EQ(seen[0].header("authorization"), "");
}

TEST(OciAuth, CallsAtOnceAskForOneToken) {
    constexpr int kCalls = 6;
    std::atomic<int> refused{0}, tokens{0};
    std::atomic<bool> deny{false};
    FaultServer *self = nullptr;
    FaultServer server([&](const FaultRequest &request) -> FaultReply {
        if (request.path.starts_with("/token")) {
            ++tokens;
            while (refused < kCalls) // all wait for this one
                std::this_thread::yield();
            if (deny) return {401, "", {}, std::string::npos, false};
            return {200, R"({"token":"T0K","expires_in":300})", {}, std::string::npos, false};
        }
        if (request.header("authorization") == "Bearer T0K") return manifest_reply();
        ++refused;
        return challenge("Bearer realm=\"" + self->url() +
                         "/token\",service=\"reg\",scope=\"repository:a/b:pull\"");
    });
    self = &server;
    const auto all_at_once = [&](OciDriver &driver) {
        std::atomic<int> good{0};
        std::vector<std::jthread> callers;
        for (int i = 0; i < kCalls; ++i)
            callers.emplace_back([&] {
                TestCall call;
                try {
                    driver.resolve(call, {server.host(), "a/b", "x", ""}, std::nullopt, nullptr);
                    ++good;
                } catch (const Error &error) {
                    EXPECT_EQ(error.error_class(), ErrorClass::kPermissionDenied) << error.message();
                }
            });
        callers.clear();
        return good.load();
    };
    OciDriver driver{Options{}};
    EXPECT_EQ(all_at_once(driver), kCalls);
    EXPECT_EQ(tokens, 1);
    refused = tokens = 0;
    deny = true;
    OciDriver other{Options{}};
    EXPECT_EQ(all_at_once(other), 0);
    EXPECT_GE(tokens, 1);
}

TEST(OciAuth, WhoWaitsForATokenMayGiveUpAlone) {
    std::atomic<int> refused{0};
    std::atomic<bool> go{false};
    FaultServer *self = nullptr;
    FaultServer server([&](const FaultRequest &request) -> FaultReply {
        if (request.path.starts_with("/token")) {
            go.wait(false);
            return {200, R"({"token":"T0K","expires_in":300})", {}, std::string::npos, false};
        }
        if (request.header("authorization") == "Bearer T0K") return manifest_reply();
        ++refused;
        refused.notify_all();
        return challenge("Bearer realm=\"" + self->url() + "/token\",service=\"reg\"");
    });
    self = &server;
    OciDriver driver{Options{}};
    const RegistryReference ref{server.host(), "a/b", "x", ""};
    TestCall patient, impatient;
    std::jthread first(
        [&] { EXPECT_EQ(driver.resolve(patient, ref, std::nullopt, nullptr).digest, kManifestDigest); });
    refused.wait(0);
    std::jthread second([&] {
        EXPECT_EQ(error_of([&] { driver.resolve(impatient, ref, std::nullopt, nullptr); }).error_class(),
                  ErrorClass::kCancelled);
    });
    refused.wait(1);
    impatient.cancel();
    second.join(); // though the token service has not answered yet
    go = true;
    go.notify_all();
}

TEST(OciAuth, BasicChallengeAndRefusal) {
    FaultServer server([&](const FaultRequest &request) -> FaultReply {
        if (request.header("authorization") == "Basic dTpw") return manifest_reply();
        return challenge("Basic realm=\"r\"");
    });
    OciDriver driver{Options{}};
    TestCall call;
    const RegistryReference ref{server.host(), "a/b", "x", ""};
    EXPECT_EQ(driver.resolve(call, ref, Credential{server.host(), "u", "p", "", ""}, nullptr).digest,
              kManifestDigest);
    EXPECT_EQ(error_of([&] { driver.resolve(call, ref, std::nullopt, nullptr); }).error_class(),
              ErrorClass::kPermissionDenied);
    EXPECT_EQ(error_of([&] {
                  driver.resolve(call, ref, Credential{"other.example", "u", "p", "", ""}, nullptr);
              }).error_class(),
              ErrorClass::kPermissionDenied);
}

TEST(OciAuth, CredentialsNeverReachMirrorsNorRedirectTargets) {
    FaultServer elsewhere([&](const FaultRequest &request) { return blob_reply(request); });
    FaultServer mirror(
        [&](const FaultRequest &) -> FaultReply { return challenge("Basic realm=\"give me\""); });
    FaultServer origin([&](const FaultRequest &request) -> FaultReply {
        if (request.header("authorization").empty()) return challenge("Basic realm=\"r\"");
        return {307, "", {{"Location", elsewhere.url() + "/cdn"}}, std::string::npos, false};
    });
    OciDriver driver(with_mirrors("docker.io", {mirror.url()}, origin.url()));
    TestCall call;
    Fetch fetch = blob_fetch("docker.io");
    fetch.credential = Credential{"https://index.docker.io/v1/", "u", "p", "", ""};
    Received got;
    driver.fetch(call, fetch, got.sink());
    EXPECT_TRUE(got.bytes == kBlob);
    ASSERT_FALSE(mirror.seen().empty());
    ASSERT_FALSE(elsewhere.seen().empty());
    for (const auto &request : mirror.seen())
        EXPECT_EQ(request.header("authorization"), "");
    for (const auto &request : elsewhere.seen())
        EXPECT_EQ(request.header("authorization"), "");
    EXPECT_EQ(origin.seen().back().header("authorization"), "Basic dTpw");
}

TEST(OciFetch, CutConnectionGoesOnAtTheByteElsewhere) {
    FaultServer mirror([&](const FaultRequest &request) {
        auto reply = blob_reply(request);
        reply.cut_after = 100000;
        return reply;
    });
    FaultServer origin([&](const FaultRequest &request) { return blob_reply(request); });
    OciDriver driver(with_mirrors("docker.io", {mirror.url()}, origin.url()));
    TestCall call;
    Received got;
    driver.fetch(call, blob_fetch("docker.io"), got.sink());
    EXPECT_TRUE(got.bytes == kBlob);
    EXPECT_EQ(got.endpoints, (std::vector<std::string>{mirror.url(), origin.url()}));
    EXPECT_EQ(origin.seen().at(0).header("range"), "bytes=100000-");
}

TEST(OciFetch, SameServerIsAskedAgainWhenItIsTheOnlyOne) {
    std::atomic<int> requests{0};
    FaultServer server([&](const FaultRequest &request) {
        auto reply = blob_reply(request);
        if (++requests < 3) reply.cut_after = 1000;
        return reply;
    });
    OciDriver driver(with_mirrors("r.example", {}, server.url()));
    TestCall call;
    Received got;
    driver.fetch(call, blob_fetch("r.example"), got.sink());
    EXPECT_TRUE(got.bytes == kBlob);
    EXPECT_EQ(server.seen().at(2).header("range"), "bytes=2000-");
}

TEST(OciFetch, ServerThatIgnoresRangeIsSkippedForward) {
    FaultServer server([&](const FaultRequest &request) { return blob_reply(request, false); });
    OciDriver driver(with_mirrors("r.example", {}, server.url()));
    TestCall call;
    Fetch fetch = blob_fetch("r.example");
    fetch.offset = 123456;
    Received got;
    got.bytes = kBlob.substr(0, 123456);
    driver.fetch(call, fetch, got.sink());
    EXPECT_TRUE(got.bytes == kBlob);
}

TEST(OciFetch, LengthLimitsTheRange) {
    FaultServer server([&](const FaultRequest &request) { return blob_reply(request); });
    OciDriver driver(with_mirrors("r.example", {}, server.url()));
    TestCall call;
    Fetch fetch = blob_fetch("r.example");
    fetch.length = 10;
    Received got;
    driver.fetch(call, fetch, got.sink());
    EXPECT_EQ(got.bytes, kBlob.substr(0, 10));
    EXPECT_EQ(server.seen().at(0).header("range"), "bytes=0-9");
}

TEST(OciFetch, ThrottledAndBrokenEndpointsAreLeft) {
    FaultServer throttled([](const FaultRequest &) -> FaultReply {
        return {429, "", {{"Retry-After", "30"}}, std::string::npos, false};
    });
    FaultServer broken([](const FaultRequest &) {
        return FaultReply{503, "", {}, std::string::npos, false};
    });
    FaultServer origin([&](const FaultRequest &request) { return blob_reply(request); });
    OciDriver driver(with_mirrors("docker.io", {throttled.url(), broken.url()}, origin.url()));
    TestCall call;
    Received got;
    driver.fetch(call, blob_fetch("docker.io"), got.sink());
    EXPECT_TRUE(got.bytes == kBlob);
    EXPECT_EQ(throttled.seen().size(), 1u);
    EXPECT_EQ(broken.seen().size(), 1u);
}

TEST(OciFetch, StalledTransferIsGivenUpAndContinued) {
    FaultServer mirror([&](const FaultRequest &request) {
        auto reply = blob_reply(request);
        reply.cut_after = 5000;
        reply.stall = true;
        return reply;
    });
    FaultServer origin([&](const FaultRequest &request) { return blob_reply(request); });
    OciDriver driver(with_mirrors("docker.io", {mirror.url()}, origin.url()));
    TestCall call;
    Received got;
    driver.fetch(call, blob_fetch("docker.io"), got.sink());
    EXPECT_TRUE(got.bytes == kBlob);
}

TEST(OciFetch, AvoidedEndpointIsNotAsked) {
    FaultServer mirror([&](const FaultRequest &request) { return blob_reply(request); });
    FaultServer origin([&](const FaultRequest &request) { return blob_reply(request); });
    OciDriver driver(with_mirrors("docker.io", {mirror.url()}, origin.url()));
    TestCall call;
    Fetch fetch = blob_fetch("docker.io");
    fetch.avoid = {mirror.url()};
    Received got;
    driver.fetch(call, fetch, got.sink());
    EXPECT_TRUE(mirror.seen().empty());
    EXPECT_TRUE(got.bytes == kBlob);
}

TEST(OciFetch, SinkErrorEndsItUnchanged) {
    FaultServer server([&](const FaultRequest &request) { return blob_reply(request); });
    OciDriver driver(with_mirrors("r.example", {}, server.url()));
    TestCall call;
    const auto error = error_of([&] {
        driver.fetch(call, blob_fetch("r.example"), [](const std::string &, uint64_t, const void *, size_t) {
            throw Error(ErrorClass::kNoSpace, "the disk is full");
        });
    });
    EXPECT_EQ(error.message(), "the disk is full");
    EXPECT_EQ(server.seen().size(), 1u);
}

TEST(OciFetch, CancelEndsAStalledTransferAtOnce) {
    TestCall call;
    FaultServer server([&](const FaultRequest &request) {
        auto reply = blob_reply(request);
        reply.cut_after = 100;
        reply.stall = true;
        return reply;
    });
    auto options = with_mirrors("r.example", {}, server.url());
    options.stall_timeout_ns = 60'000'000'000;
    OciDriver driver(options);
    std::chrono::steady_clock::time_point cancelled;
    const auto error = error_of([&] {
        driver.fetch(call, blob_fetch("r.example"), [&](const std::string &, uint64_t, const void *, size_t) {
            cancelled = std::chrono::steady_clock::now();
            call.cancel();
        });
    });
    EXPECT_EQ(error.error_class(), ErrorClass::kCancelled);
    EXPECT_LT(std::chrono::steady_clock::now() - cancelled, std::chrono::seconds(4));
}

TEST(OciTags, PagesAreJoined) {
    FaultServer server([](const FaultRequest &request) -> FaultReply {
        if (request.path.find("last=") == std::string::npos)
            return {200,
                    R"({"name":"a/b","tags":["a","b"]})",
                    {{"Link", "</v2/a/b/tags/list?last=b>; rel=\"next\""}},
                    std::string::npos,
                    false};
        return {200, R"({"name":"a/b","tags":["c"]})", {}, std::string::npos, false};
    });
    OciDriver driver(with_mirrors("r.example", {}, server.url()));
    TestCall call;
    EXPECT_EQ(driver.tags(call, {"r.example", "a/b", "", ""}, std::nullopt),
              (std::vector<std::string>{"a", "b", "c"}));
}

TEST(OciLogin, WrongPasswordIsPermissionDenied) {
    FaultServer server([](const FaultRequest &request) -> FaultReply {
        if (request.header("authorization") == "Basic dTpw") return {200, "{}", {}, std::string::npos, false};
        return challenge("Basic realm=\"r\"");
    });
    OciDriver driver{Options{}};
    TestCall call;
    EXPECT_EQ(driver.login(call, {server.host(), "u", "p", "", ""}), "");
    EXPECT_EQ(error_of([&] {
                  driver.login(call, {server.host(), "u", "wrong", "", ""});
              }).error_class(),
              ErrorClass::kPermissionDenied);
}

TEST(OciChallenge, Table) {
    auto parse = [](std::vector<std::string> values) {
        oci::HttpResponse response;
        for (auto &value : values)
            response.headers.emplace_back("www-authenticate", value);
        return oci::parse_challenge(response);
    };
    EXPECT_FALSE(parse({}));
    EXPECT_FALSE(parse({"Negotiate"}));
    EXPECT_EQ(parse({"Basic realm=\"x\"", "Bearer realm=\"https://t/?a=b,c\",service=s"})->realm,
              "https://t/?a=b,c");
    EXPECT_EQ(parse({"BEARER realm=\"a\\\"b\" , scope=\"x y\""})->scope, "x y");
    EXPECT_EQ(parse({"Bearer realm=\"unterminated"})->realm, "unterminated");
    EXPECT_EQ(parse({"Bearer"})->realm, "");
}

TEST(OciLoopback, Table) {
    for (const char *yes :
         {"localhost", "localhost:5000", "127.0.0.1:5000", "127.8.9.1", "[::1]:5000", "::1"})
        EXPECT_TRUE(oci::is_loopback_host(yes)) << yes;
    for (const char *no :
         {"localhost.example", "128.0.0.1", "127.0.0.1.example", "docker.io", "[::2]:5000", ""})
        EXPECT_FALSE(oci::is_loopback_host(no)) << no;
}

} // namespace
