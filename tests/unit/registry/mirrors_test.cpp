// Mirrors and registries as drivers meet them: who is asked for what, what each gets to see, and what is
// remembered of it. The request logs of the servers decide.
#include "oci_fixture.h"

#include <cstdlib>
#include <cstring>
#include <gtest/gtest.h>
#include <thread>

namespace {

using namespace oci_test;

std::set<std::string> shown_to(const FaultServer &server) {
    std::set<std::string> out;
    for (const auto &request : server.seen())
        out.insert(request.header("authorization"));
    return out;
}
size_t blob_requests(const FaultServer &server) {
    size_t n = 0;
    for (const auto &request : server.seen())
        n += request.path.find("/blobs/") != std::string::npos;
    return n;
}

TEST(OciMirrors, PrefixNsAndRights) {
    FaultServer bytes([](const FaultRequest &request) { return blob_reply(request); });
    FaultServer names([](const FaultRequest &) { return manifest_reply(); });
    FaultServer origin([](const FaultRequest &) { return status_reply(500); });
    auto options = with_mirrors("docker.io", {bytes.url() + "/cache", names.url()}, origin.url());
    auto &mirrors = options.hosts["docker.io"].mirrors;
    mirrors[0].prefix = "dockerhub/";
    mirrors[0].ns = true;
    mirrors[0].rights = {true, false, false};
    mirrors[1].rights = {false, true, false};
    OciDriver driver(options);
    TestCall call;
    EXPECT_EQ(driver.resolve(call, {"docker.io", "a/b", "x", ""}, std::nullopt, nullptr).endpoint,
              names.url());
    Received got;
    driver.fetch(call, blob_fetch("docker.io"), got.sink());
    EXPECT_TRUE(got.bytes == kBlob);
    ASSERT_EQ(bytes.seen().size(), 1u);
    EXPECT_EQ(bytes.seen()[0].path, "/cache/v2/dockerhub/a/b/blobs/" + kDigest + "?ns=docker.io");
    ASSERT_EQ(names.seen().size(), 1u);
    EXPECT_EQ(names.seen()[0].path, "/v2/a/b/manifests/x");
    EXPECT_TRUE(origin.seen().empty());
}

TEST(OciMirrors, WildcardServesAnyRegistry) {
    FaultServer cache([](const FaultRequest &) { return manifest_reply(); });
    Options options;
    oci::MirrorOptions m;
    m.url = cache.url();
    m.ns = true;
    options.hosts["*"].mirrors = {m};
    OciDriver driver(options);
    TestCall call;
    for (const char *registry : {"quay.io", "r.example:5000"})
        EXPECT_EQ(driver.resolve(call, {registry, "a/b", "x", ""}, std::nullopt, nullptr).endpoint,
                  cache.url());
    ASSERT_EQ(cache.seen().size(), 2u);
    EXPECT_EQ(cache.seen()[1].path, "/v2/a/b/manifests/x?ns=r.example%3A5000");
}

TEST(OciMirrors, BlockedIsRefusedWithoutARequest) {
    FaultServer mirror([](const FaultRequest &) { return manifest_reply(); });
    FaultServer origin([](const FaultRequest &) { return manifest_reply(); });
    auto options = with_mirrors("docker.io", {mirror.url()}, origin.url());
    options.hosts["docker.io"].blocked_repositories = {"evil/*"};
    OciDriver driver(options);
    TestCall call;
    const RegistryReference evil{"docker.io", "evil/a", "x", ""};
    const auto error = error_of([&] { driver.resolve(call, evil, std::nullopt, nullptr); });
    EXPECT_EQ(error.error_class(), ErrorClass::kPermissionDenied);
    EXPECT_EQ(error.message(), "resolve docker.io/evil/a:x: blocked by [registry.oci.hosts.\"docker.io\"] "
                               "blocked_repositories \"evil/*\"");
    Fetch fetch = blob_fetch("docker.io");
    fetch.from.repository = "evil/a";
    Received got;
    EXPECT_EQ(error_of([&] { driver.fetch(call, fetch, got.sink()); }).error_class(),
              ErrorClass::kPermissionDenied);
    EXPECT_EQ(driver.explain(call, evil)[0].state, "blocked");
    EXPECT_TRUE(mirror.seen().empty());
    EXPECT_TRUE(origin.seen().empty());
}

TEST(OciMirrors, EveryEndpointSeesItsOwnCredentialsAlone) {
    const auto wants = [](const std::string &authorization, int otherwise) {
        return [=](const FaultRequest &request) {
            if (request.header("authorization") != authorization) return challenge("Basic realm=\"r\"");
            return status_reply(otherwise); // let in, and of no use: the next one is asked
        };
    };
    FaultServer configured(wants("Basic bTE6cDE=", 404)); // m1:p1
    FaultServer from_file(wants("Basic bTI6cDI=", 404));  // m2:p2
    FaultServer nobody(wants("Basic x", 404));
    FaultServer store([](const FaultRequest &request) { // wants to know more than it should
        return request.header("range").empty() && request.header("authorization").empty()
                   ? challenge("Basic realm=\"store\"")
                   : blob_reply(request);
    });
    FaultServer origin([&](const FaultRequest &request) -> FaultReply {
        if (request.header("authorization") != "Basic dTpw") return challenge("Basic realm=\"r\"");
        return status_reply(307, {{"Location", store.url() + "/signed"}});
    });
    char file[] = "/tmp/gantry-auth.XXXXXX";
    const int fd = ::mkstemp(file);
    ASSERT_GE(fd, 0);
    const std::string text = R"({"auths":{")" + from_file.host() + R"(":{"auth":"bTI6cDI="}}})";
    ASSERT_EQ(::write(fd, text.data(), text.size()), static_cast<ssize_t>(text.size()));
    ::close(fd);
    auto options = with_mirrors("docker.io", {configured.url(), from_file.url(), nobody.url()}, origin.url());
    options.auth_file = file;
    options.hosts["docker.io"].mirrors[0].access.username = "m1";
    options.hosts["docker.io"].mirrors[0].access.password = "p1";
    options.hosts["docker.io"].mirrors[2].rights.resolve_tags = false;
    OciDriver driver(options);
    TestCall call;
    Fetch fetch = blob_fetch("docker.io");
    fetch.credential = Credential{"docker.io", "u", "p", "", ""};
    Received got;
    error_of([&] { driver.fetch(call, fetch, got.sink()); }); // the store refuses in the end
    ::unlink(file);
    EXPECT_EQ(shown_to(configured), (std::set<std::string>{"", "Basic bTE6cDE="}));
    EXPECT_EQ(shown_to(from_file), (std::set<std::string>{"", "Basic bTI6cDI="}));
    EXPECT_EQ(shown_to(nobody), (std::set<std::string>{""}));
    EXPECT_EQ(shown_to(origin), (std::set<std::string>{"", "Basic dTpw"}));
    ASSERT_FALSE(store.seen().empty());
    EXPECT_EQ(shown_to(store), (std::set<std::string>{""}));
}

TEST(OciAuth, AChallengeFromARedirectTargetIsNotAnswered) {
    FaultServer thief([](const FaultRequest &) { return status_reply(200); });
    FaultServer store([&](const FaultRequest &) {
        return challenge("Bearer realm=\"" + thief.url() + "/token\",service=\"s\"");
    });
    FaultServer origin([&](const FaultRequest &) {
        return status_reply(307, {{"Location", store.url() + "/x"}});
    });
    OciDriver driver(with_mirrors("r.example", {}, origin.url()));
    TestCall call;
    Fetch fetch = blob_fetch("r.example");
    fetch.credential = Credential{"r.example", "u", "p", "", ""};
    Received got;
    const auto error = error_of([&] { driver.fetch(call, fetch, got.sink()); });
    EXPECT_NE(error.message().find("HTTP 401 from " + store.url()), std::string::npos) << error.message();
    EXPECT_TRUE(thief.seen().empty());
}

TEST(OciAuth, ARedirectToAnotherPortDropsTheToken) {
    FaultServer other([](const FaultRequest &request) { return blob_reply(request); });
    FaultServer *self = nullptr;
    FaultServer origin([&](const FaultRequest &request) -> FaultReply {
        if (request.path.starts_with("/token"))
            return {200, R"({"access_token":"T"})", {}, std::string::npos, false};
        if (request.header("authorization") != "Bearer T")
            return challenge("Bearer realm=\"" + self->url() + "/token\",service=\"s\"");
        return status_reply(302, {{"Location", other.url() + "/x"}});
    });
    self = &origin;
    OciDriver driver(with_mirrors("r.example", {}, origin.url()));
    TestCall call;
    Received got;
    driver.fetch(call, blob_fetch("r.example"), got.sink());
    EXPECT_TRUE(got.bytes == kBlob);
    EXPECT_EQ(shown_to(other), (std::set<std::string>{""}));
}

TEST(OciAuth, ExpiredTokensAndSignaturesAreRenewed) {
    // A token is good for one request, whatever it says; every second signature is stale; a body is cut.
    int tokens = 0, signatures = 0;
    std::string good;
    FaultServer *self = nullptr;
    FaultServer store([](const FaultRequest &request) {
        if (request.path == "/stale") return status_reply(403);
        auto reply = blob_reply(request);
        reply.cut_after = 100000;
        return reply;
    });
    std::mutex mutex;
    FaultServer origin([&](const FaultRequest &request) -> FaultReply {
        const std::lock_guard lock(mutex);
        if (request.path.starts_with("/token")) {
            good = "Bearer T" + std::to_string(++tokens);
            return {200,
                    R"({"token":")" + good.substr(7) + R"(","expires_in":3600})",
                    {},
                    std::string::npos,
                    false};
        }
        if (good.empty() || request.header("authorization") != good)
            return challenge("Bearer realm=\"" + self->url() + "/token\",service=\"s\"");
        good.clear();
        return status_reply(307, {{"Location", store.url() + (++signatures % 2 ? "/stale" : "/fresh")}});
    });
    self = &origin;
    OciDriver driver(with_mirrors("r.example", {}, origin.url()));
    TestCall call;
    Received got;
    driver.fetch(call, blob_fetch("r.example"), got.sink());
    EXPECT_TRUE(got.bytes == kBlob);
    EXPECT_EQ(signatures, 6); // three pieces, each after a stale one
    EXPECT_EQ(tokens, 6);
}

TEST(OciAuth, AnIdentityTokenIsChangedByPostAndNeverShownToTheRegistry) {
    FaultServer service([](const FaultRequest &request) -> FaultReply {
        return {request.method == "POST" ? 200 : 405,
                R"({"access_token":"A","refresh_token":"NEXT"})",
                {{"Connection", "close"}},
                std::string::npos,
                false};
    });
    FaultServer origin([&](const FaultRequest &request) {
        if (request.header("authorization") == "Bearer A") return manifest_reply();
        return challenge("Bearer realm=\"" + service.url() + "/token\",service=\"s\"");
    });
    OciDriver driver(with_mirrors("r.example", {}, origin.url()));
    TestCall call;
    const Credential credential{"r.example", "", "", "IDENTITY", ""};
    EXPECT_EQ(driver.resolve(call, {"r.example", "a/b", "x", ""}, credential, nullptr).digest,
              kManifestDigest);
    EXPECT_EQ(service.seen().at(0).header("authorization"), "");
    EXPECT_EQ(service.seen().at(0).path, "/token"); // nothing secret in the URL
    EXPECT_EQ(shown_to(origin), (std::set<std::string>{"", "Bearer A"}));
}

TEST(OciLogin, ARefreshTokenIsAskedForAndReturned) {
    FaultServer *self = nullptr;
    FaultServer server([&](const FaultRequest &request) -> FaultReply {
        if (request.path.starts_with("/token"))
            return {200,
                    request.path.find("offline_token=true") == std::string::npos
                        ? R"({"token":"T"})"
                        : R"({"token":"T","refresh_token":"IDENTITY"})",
                    {},
                    std::string::npos,
                    false};
        if (request.header("authorization") == "Bearer T") return status_reply(200);
        return challenge("Bearer realm=\"" + self->url() + "/token\",service=\"s\"");
    });
    self = &server;
    OciDriver driver{Options{}};
    TestCall call;
    EXPECT_EQ(driver.login(call, {server.host(), "u", "p", "", ""}), "IDENTITY");
}

TEST(OciFetch, ParallelRangesAreSpreadOverMirrors) {
    const auto serve = [](const FaultRequest &request) {
        auto reply = blob_reply(request);
        reply.drip = 5000; // long enough to overlap
        return reply;
    };
    FaultServer a(serve), b(serve), c(serve), origin(serve);
    OciDriver driver(with_mirrors("docker.io", {a.url(), b.url(), c.url()}, origin.url()));
    constexpr size_t kRange = 50000;
    std::string bytes(kBlob.size(), 0);
    std::vector<std::thread> threads;
    for (size_t at = 0; at < kBlob.size(); at += kRange)
        threads.emplace_back([&, at] {
            TestCall call;
            Fetch fetch = blob_fetch("docker.io");
            fetch.offset = at;
            fetch.length = kRange;
            driver.fetch(call, fetch, [&](const std::string &, uint64_t to, const void *data, size_t size) {
                std::memcpy(bytes.data() + to, data, size);
            });
        });
    for (auto &thread : threads)
        thread.join();
    EXPECT_TRUE(bytes == kBlob);
    EXPECT_EQ(blob_requests(a), 2u);
    EXPECT_EQ(blob_requests(b), 2u);
    EXPECT_EQ(blob_requests(c), 2u);
    EXPECT_EQ(blob_requests(origin), 0u);
}

TEST(OciFetch, ARangeOfADyingMirrorIsFinishedByAnother) {
    FaultServer dying([](const FaultRequest &request) {
        auto reply = blob_reply(request);
        reply.cut_after = 1000;
        return reply;
    });
    FaultServer whole([](const FaultRequest &request) { return blob_reply(request); });
    FaultServer origin([](const FaultRequest &) { return status_reply(500); });
    OciDriver driver(with_mirrors("docker.io", {dying.url(), whole.url()}, origin.url()));
    TestCall call;
    Fetch fetch = blob_fetch("docker.io");
    fetch.offset = 50000;
    fetch.length = 20000;
    Received got;
    got.bytes = kBlob.substr(0, 50000);
    driver.fetch(call, fetch, got.sink());
    EXPECT_TRUE(got.bytes == kBlob.substr(0, 70000));
    EXPECT_EQ(whole.seen().at(0).header("range"), "bytes=51000-69999");
}

TEST(OciFetch, EndpointsThatIgnoreRangesComeLastForThem) {
    FaultServer ignores([](const FaultRequest &request) { return blob_reply(request, false); });
    FaultServer origin([](const FaultRequest &request) { return blob_reply(request); });
    TestCall call;
    for (const uint64_t length : {uint64_t{0}, uint64_t{10000}}) {
        OciDriver driver(with_mirrors("docker.io", {ignores.url()}, origin.url()));
        Fetch fetch = blob_fetch("docker.io");
        fetch.offset = 100000;
        fetch.length = length;
        Received got;
        got.bytes = kBlob.substr(0, 100000);
        driver.fetch(call, fetch, got.sink());
        EXPECT_TRUE(got.bytes == kBlob.substr(0, length ? 110000 : kBlob.size()));
        EXPECT_EQ(got.endpoints, std::vector<std::string>{origin.url()});
    }
    OciDriver alone(with_mirrors("docker.io", {}, ignores.url()));
    Fetch fetch = blob_fetch("docker.io");
    fetch.offset = 100000;
    fetch.length = 10000;
    Received got;
    got.bytes = kBlob.substr(0, 100000);
    EXPECT_EQ(error_of([&] { alone.fetch(call, fetch, got.sink()); }).error_class(),
              ErrorClass::kUnsupported);
    fetch.length = 0; // one stream is read from its beginning
    alone.fetch(call, fetch, got.sink());
    EXPECT_TRUE(got.bytes == kBlob);
}

TEST(OciFetch, WhoRefusesRangesIsAskedForTheWholeWhenNobodyElseIsLeft) {
    std::atomic<int> asked{0};
    FaultServer server([&](const FaultRequest &request) {
        if (!request.header("range").empty()) return status_reply(416);
        FaultReply out = blob_reply(request);
        if (++asked == 1) out.cut_after = 100'000;
        return out;
    });
    {
        OciDriver driver(with_mirrors("docker.io", {}, server.url()));
        TestCall call;
        Received got;
        driver.fetch(call, blob_fetch("docker.io"), got.sink());
        EXPECT_TRUE(got.bytes == kBlob);
        const auto seen = server.seen();
        ASSERT_EQ(seen.size(), 3u); // cut, refused, from the beginning
        EXPECT_EQ(seen[1].header("range"), "bytes=100000-");
        EXPECT_EQ(seen[2].header("range"), "");
    }
    asked = 0;
    FaultServer origin([](const FaultRequest &request) { return blob_reply(request); });
    OciDriver driver(with_mirrors("docker.io", {server.url()}, origin.url()));
    TestCall call;
    Received got;
    driver.fetch(call, blob_fetch("docker.io"), got.sink());
    EXPECT_TRUE(got.bytes == kBlob);
    EXPECT_EQ(got.endpoints, (std::vector<std::string>{server.url(), origin.url()}));
    EXPECT_EQ(origin.seen().at(0).header("range"), "bytes=100000-");
}

TEST(OciFetch, ABlobOfAnotherSizeIsNotTaken) {
    FaultServer shorter([](const FaultRequest &) {
        return FaultReply{200, kBlob.substr(0, 1000), {}, std::string::npos, false};
    });
    FaultServer no_such_byte([](const FaultRequest &request) {
        return request.header("range").empty() ? status_reply(404) : status_reply(416);
    });
    FaultServer origin([](const FaultRequest &request) { return blob_reply(request); });
    OciDriver driver(with_mirrors("docker.io", {shorter.url(), no_such_byte.url()}, origin.url()));
    TestCall call;
    Received got;
    driver.fetch(call, blob_fetch("docker.io"), got.sink());
    EXPECT_TRUE(got.bytes == kBlob);
    EXPECT_EQ(got.endpoints, std::vector<std::string>{origin.url()});
    const auto lines = driver.explain(call, {"docker.io", "a/b", "x", ""});
    EXPECT_EQ(lines.back().url, shorter.url());
    EXPECT_GT(lines.back().resting_ns, 1'800'000'000'000) << "a liar rests long";
}

TEST(OciFetch, ASlowEndpointIsLeftWhereAnotherExists) {
    FaultServer slow([](const FaultRequest &request) {
        auto reply = blob_reply(request);
        reply.drip = 100; // 10 kB/s
        return reply;
    });
    FaultServer origin([](const FaultRequest &request) { return blob_reply(request); });
    auto options = with_mirrors("docker.io", {slow.url()}, origin.url());
    options.min_speed = 100'000;
    options.min_speed_window_ns = 200'000'000;
    OciDriver driver(options);
    TestCall call;
    Received got;
    driver.fetch(call, blob_fetch("docker.io"), got.sink());
    EXPECT_TRUE(got.bytes == kBlob);
    EXPECT_EQ(got.endpoints, (std::vector<std::string>{slow.url(), origin.url()}));
    EXPECT_EQ(origin.seen().at(0).header("range").substr(0, 6), "bytes=");
    const auto lines = driver.explain(call, {"docker.io", "a/b", "x", ""});
    EXPECT_NE(lines.back().reason.find("slow: "), std::string::npos) << lines.back().reason;
}

TEST(OciHealth, RetryAfterIsObeyedEvenByTheLastResort) {
    std::atomic<int64_t> now{1'700'000'000'000'000'000};
    std::atomic<bool> throttled{true};
    FaultServer server([&](const FaultRequest &) {
        return throttled ? status_reply(429, {{"Retry-After", "300"}}) : manifest_reply();
    });
    OciDriver driver(with_mirrors("r.example", {}, server.url()), {}, {0, 0, [&] { return now.load(); }, {}});
    TestCall call;
    const RegistryReference ref{"r.example", "a/b", "x", ""};
    auto error = error_of([&] { driver.resolve(call, ref, std::nullopt, nullptr); });
    EXPECT_EQ(server.seen().size(), 1u);
    EXPECT_NE(error.message().find("HTTP 429"), std::string::npos) << error.message();
    Received got;
    error = error_of([&] { driver.fetch(call, blob_fetch("r.example"), got.sink()); });
    EXPECT_EQ(server.seen().size(), 1u);
    EXPECT_NE(error.message().find("asked to be left alone for another 301 s"), std::string::npos)
        << error.message();
    throttled = false;
    now += 301'000'000'000;
    EXPECT_EQ(driver.resolve(call, ref, std::nullopt, nullptr).digest, kManifestDigest);
}

TEST(OciHealth, IsRememberedByTheNextDriver) {
    FaultServer broken([](const FaultRequest &) { return status_reply(503); });
    FaultServer origin([](const FaultRequest &) { return manifest_reply(); });
    std::string stored;
    const oci::HealthStore store{[&](const Call &) { return stored; },
                                 [&](const Call &, const std::string &text) { stored = text; }};
    const auto options = with_mirrors("docker.io", {broken.url()}, origin.url());
    const RegistryReference ref{"docker.io", "a/b", "x", ""};
    TestCall call;
    for (int i = 0; i < 2; ++i) {
        OciDriver driver(options, store);
        EXPECT_EQ(driver.resolve(call, ref, std::nullopt, nullptr).endpoint, origin.url());
        EXPECT_EQ(broken.seen().size(), 1u);
    }
    stored = "not what it was";
    OciDriver driver(options, store);
    EXPECT_EQ(driver.resolve(call, ref, std::nullopt, nullptr).endpoint, origin.url());
}

TEST(OciResolve, APassingFailureIsAskedAgain) {
    std::atomic<int> requests{0};
    FaultServer server(
        [&](const FaultRequest &) { return ++requests < 3 ? status_reply(502) : manifest_reply(); });
    OciDriver driver(with_mirrors("r.example", {}, server.url()));
    TestCall call;
    EXPECT_EQ(driver.resolve(call, {"r.example", "a/b", "x", ""}, std::nullopt, nullptr).digest,
              kManifestDigest);
    EXPECT_EQ(requests.load(), 3);
}

TEST(OciProxy, AProxyOfTheHostIsUsedAndHearsNoOtherCredentials) {
    FaultServer proxy([](const FaultRequest &) { return manifest_reply(); });
    auto options = with_mirrors("r.example", {}, "http://registry.invalid:5000");
    options.hosts["r.example"].access.proxy = proxy.url();
    OciDriver driver(options);
    TestCall call;
    driver.resolve(call, {"r.example", "a/b", "x", ""}, std::nullopt, nullptr);
    ASSERT_EQ(proxy.seen().size(), 1u);
    EXPECT_EQ(proxy.seen()[0].path, "http://registry.invalid:5000/v2/a/b/manifests/x");
    options.hosts["r.example"].access.no_proxy = {"*.invalid"};
    OciDriver direct(options);
    EXPECT_EQ(error_of([&] {
                  direct.resolve(call, {"r.example", "a/b", "x", ""}, std::nullopt, nullptr);
              }).error_class(),
              ErrorClass::kUnavailable);
    EXPECT_EQ(proxy.seen().size(), 1u);
}

TEST(OciReport, TestAndStatusSayWhatWorksAndHowFast) {
    const std::string manifest = R"({"schemaVersion":2,"layers":[{"digest":")" + kDigest +
                                 R"(","size":300000},{"digest":"sha256:small","size":3}]})";
    FaultServer good([&](const FaultRequest &request) -> FaultReply {
        if (request.path == "/v2/") return {200, "{}", {}, std::string::npos, false};
        if (request.path.find("/manifests/") != std::string::npos)
            return {200, manifest, {{"Content-Type", kType}}, std::string::npos, false};
        auto reply = blob_reply(request);
        reply.drip = 20000;
        return reply;
    });
    FaultServer closed([](const FaultRequest &) { return challenge("Basic realm=\"r\""); });
    const std::string dead = dead_url();
    OciDriver driver(with_mirrors("docker.io", {closed.url(), dead}, good.url()));
    TestCall call;
    auto lines = driver.status(call);
    ASSERT_EQ(lines.size(), 3u);
    EXPECT_EQ(lines[2].state, "unknown");
    EXPECT_EQ(lines[2].latency_ns, -1);
    lines = driver.test(call, {"docker.io", "a/b", "x", ""}, std::nullopt);
    ASSERT_EQ(lines.size(), 3u);
    EXPECT_EQ(lines[0].state, "failed");
    EXPECT_NE(lines[0].reason.find("no basic auth credentials"), std::string::npos) << lines[0].reason;
    EXPECT_EQ(lines[1].state, "failed");
    EXPECT_GT(lines[1].resting_ns, 0);
    EXPECT_EQ(lines[2].state, "ok");
    EXPECT_EQ(lines[2].registry, "docker.io");
    EXPECT_GT(lines[2].latency_ns, 0);
    EXPECT_GT(lines[2].bytes_per_second, 0u);
    lines = driver.status(call);
    EXPECT_EQ(lines[1].url, dead);
    EXPECT_EQ(lines[1].failures, 1u);
    EXPECT_NE(lines[1].state.find("resting"), std::string::npos);
    EXPECT_GT(lines[2].bytes_served, 0u);
}

} // namespace
