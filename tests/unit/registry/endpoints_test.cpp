// Which endpoints a registry has and in which order they are asked: tables, without a network.
#include "certs.h"
#include "choice.h"
#include "credentials.h"
#include "oci_driver.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>

namespace {

using namespace gantry;
using namespace gantry::oci;

MirrorOptions mirror(const std::string &url) {
    MirrorOptions m;
    m.url = url;
    return m;
}

TEST(OciEndpoints, TheMostSpecificTableCounts) {
    Options options;
    for (const char *name :
         {"*", "*.example.com", "*.deep.example.com", "a.example.com", "a.example.com:5000"})
        options.hosts[name].mirrors.push_back(mirror(std::string("https://for-") + name));
    const EndpointTable table(options);
    const std::pair<const char *, const char *> cases[] = {
        {"docker.io", "*"},
        {"example.com", "*"},
        {"b.example.com", "*.example.com"},
        {"b.example.com:8443", "*.example.com"},
        {"B.Example.COM", "*.example.com"},
        {"x.y.example.com", "*.example.com"},
        {"x.deep.example.com", "*.deep.example.com"},
        {"a.example.com", "a.example.com"},
        {"a.example.com:5000", "a.example.com:5000"},
        {"a.example.com:6000", "*.example.com"}, // another port is another service
        {"notexample.com", "*"},
        {"[::1]:5000", "*"},
    };
    for (const auto &[registry, key] : cases) {
        std::string name;
        table.host(registry, &name);
        EXPECT_EQ(name, key) << registry;
        EXPECT_EQ(table.list(registry)[0].reason,
                  std::string("[registry.oci.hosts.\"") + key + "\"] mirrors[0]");
    }
}

TEST(OciEndpoints, BlockedNamesAndRepositories) {
    Options options;
    options.hosts["evil.example"].blocked = true;
    options.hosts["evil.example:8443"].blocked = false;
    options.hosts["*.bad.example"].blocked = true;
    options.hosts["good.bad.example"].blocked = false;
    options.hosts["docker.io"].blocked_repositories = {"evil/*", "library/one"};
    options.blocked_repositories = {"*.example.com/secret/*", "quay.io/*"};
    const EndpointTable table(options);
    const std::tuple<const char *, const char *, bool> cases[] = {
        {"evil.example", "a", true},
        {"EVIL.example", "a", true},
        {"evil.example:443", "a", true},
        {"evil.example:8443", "a", false}, // has a table of its own
        {"x.bad.example", "a", true},
        {"x.bad.example:5000", "a", true},
        {"good.bad.example", "a", false},
        {"docker.io", "evil/a", true},
        {"docker.io", "evil/a/b", true},
        {"docker.io", "evil", false},
        {"docker.io", "library/one", true},
        {"docker.io", "library/ones", false},
        {"a.example.com:5000", "secret/x", true},
        {"a.example.com", "public/x", false},
        {"quay.io", "anything", true},
    };
    for (const auto &[registry, repository, blocked] : cases) {
        try {
            table.check_allowed("pull", registry, repository);
            EXPECT_FALSE(blocked) << registry << "/" << repository;
        } catch (const Error &error) {
            EXPECT_TRUE(blocked) << registry << "/" << repository;
            EXPECT_EQ(error.error_class(), ErrorClass::kPermissionDenied);
            EXPECT_NE(error.message().find("pull: blocked by [registry.oci"), std::string::npos)
                << error.message();
        }
    }
}

TEST(OciEndpoints, PathsScopesAndAddresses) {
    Options options;
    options.hosts["docker.io"].mirrors.push_back(mirror("https://m.example/base"));
    options.hosts["docker.io"].mirrors[0].prefix = "dockerhub/";
    options.hosts["docker.io"].mirrors[0].ns = true;
    options.hosts["plain.example:80"].plain_http = true;
    options.hosts["moved.example"].url = "https://elsewhere.example:5443";
    const EndpointTable table(options);
    const auto list = table.list("docker.io");
    EXPECT_EQ(list[0].path("library/nginx", "/manifests/latest"),
              "/v2/dockerhub/library/nginx/manifests/latest?ns=docker.io");
    EXPECT_EQ(list[0].path("a/b", "/tags/list?n=1"), "/v2/dockerhub/a/b/tags/list?n=1&ns=docker.io");
    EXPECT_EQ(list[0].scope("a/b"), "repository:dockerhub/a/b:pull");
    EXPECT_FALSE(list[0].rights.push);
    EXPECT_EQ(list[1].url, "https://registry-1.docker.io");
    EXPECT_EQ(list[1].path("a/b", "/blobs/x"), "/v2/a/b/blobs/x");
    EXPECT_TRUE(list[1].rights.push);
    EXPECT_EQ(table.list("plain.example:80")[0].url, "http://plain.example:80");
    EXPECT_EQ(table.list("moved.example")[0].url, "https://elsewhere.example:5443");
    EXPECT_FALSE(table.list("other.example")[0].http_possible);
    EXPECT_FALSE(table.list("other.example")[0].tls.skip_verify);
    EXPECT_TRUE(table.list("localhost:5000")[0].http_possible);
}

TEST(OciEndpoints, Globs) {
    EXPECT_TRUE(glob_matches("*", "a/b"));
    EXPECT_TRUE(glob_matches("a*c*e", "abcde"));
    EXPECT_TRUE(glob_matches("*b", "bab"));
    EXPECT_FALSE(glob_matches("a*", "ba"));
    EXPECT_FALSE(glob_matches("", "a"));
    EXPECT_TRUE(glob_matches("", ""));
    EXPECT_FALSE(glob_matches(std::string(200, '*') + "x", std::string(5000, 'a'))); // and is quick
}

TEST(OciEndpoints, CertificatesByHost) {
    char dir[] = "/tmp/gantry-certs.XXXXXX";
    ASSERT_TRUE(::mkdtemp(dir));
    const std::filesystem::path host = std::filesystem::path(dir) / "m.example:5000";
    std::filesystem::create_directory(host);
    for (const char *name : {"a.crt", "b.crt", "client.cert", "client.key", "orphan.cert", "readme"})
        std::ofstream(host / name) << name;
    Options options;
    options.certs_dir = dir;
    options.hosts["r.example"].mirrors = {mirror("https://m.example:5000"), mirror("https://other.example")};
    options.hosts["r.example"].mirrors[1].access.client_cert = "/configured";
    const auto list = EndpointTable(options).list("r.example");
    EXPECT_EQ(list[0].tls.ca_pem, "a.crt\nb.crt\n");
    EXPECT_EQ(list[0].tls.client_cert, (host / "client.cert").string());
    EXPECT_EQ(list[0].tls.client_key, (host / "client.key").string());
    EXPECT_EQ(list[1].tls.ca_pem, "");
    EXPECT_EQ(list[1].tls.client_cert, "/configured");
    std::filesystem::remove_all(dir);
}

TEST(OciProxy, Table) {
    auto environment = [](const char *name) -> const char * {
        const std::string n = name;
        return n == "HTTPS_PROXY"  ? "http://secure:1"
               : n == "HTTP_PROXY" ? "http://upper:1"
               : n == "http_proxy" ? "http://lower:1"
               : n == "NO_PROXY"   ? "a.example"
                                   : nullptr;
    };
    auto nothing = [](const char *) -> const char * { return nullptr; };
    const auto from_environment = proxy_settings("", {}, false);
    EXPECT_EQ(proxy_for(from_environment, "https://r.example/v2/", environment).url, "http://secure:1");
    EXPECT_EQ(proxy_for(from_environment, "http://r.example/v2/", environment).url, "http://lower:1");
    EXPECT_EQ(proxy_for(from_environment, "https://r.example/v2/", environment).no_proxy, "a.example");
    EXPECT_EQ(proxy_for(from_environment, "https://127.0.0.1:5000/v2/", environment).url, "");
    EXPECT_EQ(proxy_for(from_environment, "https://r.example/", nothing).url, "");
    EXPECT_EQ(proxy_for(proxy_settings("none", {}, false), "https://r.example/", environment).url, "");
    const auto fixed = proxy_settings("http://p:3128", {"*.corp.example", "10.0.0.0/8"}, false);
    EXPECT_EQ(proxy_for(fixed, "https://r.example/", environment).url, "http://p:3128");
    EXPECT_EQ(proxy_for(fixed, "https://r.example/", environment).no_proxy, ".corp.example,10.0.0.0/8");
    EXPECT_EQ(proxy_for(fixed, "http://localhost/", environment).url, "");
    EXPECT_EQ(proxy_for(proxy_settings("http://p", {}, true), "http://localhost/", environment).url,
              "http://p");
}

TEST(OciCredentials, ConfigJson) {
    const std::string text = R"({"auths": {
        "https://index.docker.io/v1/": {"auth": "dTpwOnE="},
        "r.example:5000": {"username": "x", "password": "y"},
        "quay.io": {"identitytoken": "TOKEN", "auth": "PHRva2VuPjo="},
        "part.example/team": {"auth": "dTpw"},
        "empty.example": {}}, "credsStore": "desktop"})";
    EXPECT_EQ(find_in_config_json(text, "registry-1.docker.io")->username, "u");
    EXPECT_EQ(find_in_config_json(text, "registry-1.docker.io")->password, "p:q");
    EXPECT_EQ(find_in_config_json(text, "r.example:5000")->password, "y");
    EXPECT_FALSE(find_in_config_json(text, "r.example")); // another port
    EXPECT_FALSE(find_in_config_json(text, "r.example:5001"));
    EXPECT_EQ(find_in_config_json(text, "quay.io")->identity_token, "TOKEN");
    EXPECT_FALSE(find_in_config_json(text, "part.example")); // for a part of that host
    EXPECT_FALSE(find_in_config_json(text, "empty.example"));
    EXPECT_THROW(find_in_config_json("[]", "a"), Error);
    EXPECT_THROW(find_in_config_json("{", "a"), Error);
}

TEST(OciCredentials, EachEndpointHasItsOwn) {
    Endpoint origin, m;
    origin.url = "https://r.example";
    origin.registry = m.registry = "r.example";
    m.url = "https://m.example";
    m.mirror = true;
    const std::optional<Credential> ours{{"r.example", "u", "p", "", ""}},
        other{{"x.example", "u", "p", "", ""}};
    EXPECT_EQ(credential_for(origin, ours, "").username, "u");
    EXPECT_TRUE(credential_for(origin, other, "").empty());
    EXPECT_TRUE(credential_for(m, ours, "").empty());
    origin.username = "configured";
    EXPECT_EQ(credential_for(origin, ours, "").username, "u");
    EXPECT_EQ(credential_for(origin, other, "").username, "configured");
    m.username = "mirror";
    m.password_file = "/nonexistent/password";
    EXPECT_THROW(credential_for(m, ours, ""), Error);
}

/// A clock and a die that the test controls.
struct Clockwork {
    int64_t now = 1'700'000'000'000'000'000;
    double die = 0.5; // no jitter
    Health health{{5'000'000'000, 60'000'000'000, [this] { return now; }, [this] { return die; }}};
    int64_t resting_s(const std::string &url) const { return health.resting_ns(url) / 1'000'000'000; }
    void pass(int64_t seconds) { now += seconds * 1'000'000'000; }
};

TEST(OciHealth, RestsDoubleUpToALimitAndSuccessEndsThem) {
    Clockwork c;
    for (const int64_t expected : {5, 10, 20, 40, 60, 60}) {
        c.health.failed("m", Fault::kFailed, "HTTP 500");
        EXPECT_EQ(c.resting_s("m"), expected);
        c.health.failed("m", Fault::kFailed, "HTTP 500"); // transfers that fail together are one failure
        EXPECT_EQ(c.resting_s("m"), expected);
        c.pass(expected);
        EXPECT_EQ(c.resting_s("m"), 0);
    }
    c.health.succeeded("m");
    c.health.failed("m", Fault::kFailed, "HTTP 500");
    EXPECT_EQ(c.resting_s("m"), 5);
    c.health.succeeded("m");
    EXPECT_EQ(c.resting_s("m"), 0);
    c.die = 0;
    c.health.failed("low", Fault::kFailed, "");
    c.die = 1;
    c.health.failed("high", Fault::kFailed, "");
    EXPECT_EQ(c.health.resting_ns("low"), 3'750'000'000);
    EXPECT_EQ(c.health.resting_ns("high"), 6'250'000'000);
}

TEST(OciHealth, RetryAfterCorruptAndSlow) {
    Clockwork c;
    c.health.failed("m", Fault::kFailed, "HTTP 429", 30'000'000'000);
    EXPECT_EQ(c.health.wait_ns("m"), 30'000'000'000);
    EXPECT_EQ(c.resting_s("m"), 30);
    c.pass(30);
    EXPECT_EQ(c.health.wait_ns("m"), 0);
    c.health.failed("liar", Fault::kCorrupt, "wrong bytes");
    c.health.failed("liar", Fault::kCorrupt, "wrong bytes"); // by every range of the blob
    EXPECT_EQ(c.resting_s("liar"), 3600);
    c.health.failed("slow", Fault::kSlow, "slow");
    EXPECT_EQ(c.resting_s("slow"), 60);
}

TEST(OciHealth, IsKeptOverRestarts) {
    Clockwork before;
    before.health.failed("m", Fault::kFailed, "HTTP 500", 30'000'000'000);
    before.health.answered("n", 7'000'000);
    before.health.served("n", 1 << 20, 1'000'000'000);
    before.health.ignores_ranges("n", true);
    Clockwork after;
    after.health.from_json(before.health.to_json());
    after.pass(10);
    EXPECT_EQ(after.resting_s("m"), 20);
    EXPECT_EQ(after.health.wait_ns("m"), 20'000'000'000);
    EXPECT_EQ(after.health.get("m").reason, "HTTP 500");
    EXPECT_EQ(after.health.get("n").latency_ns, 7'000'000);
    EXPECT_EQ(after.health.get("n").bytes_per_second, 1u << 20);
    EXPECT_TRUE(after.health.get("n").no_ranges);
    after.pass(-30 * 86400); // a clock set back makes nobody rest for a month
    EXPECT_EQ(after.resting_s("m"), 0);
    for (const char *broken : {"", "[]", "{\"a\":1}", "{\"a\":{\"in_a_row\":-5,\"reason\":7}}"})
        after.health.from_json(broken);
    for (int i = 0; i < 2000; ++i)
        after.health.failed("https://" + std::to_string(i) + ".example", Fault::kFailed,
                            std::string(9999, 'x'));
    EXPECT_LT(after.health.all().size(), 600u);
    EXPECT_LT(after.health.to_json().size(), 64u << 10);
}

TEST(OciRetryAfter, Table) {
    const int64_t now = 1'445'412'470; // Wed, 21 Oct 2015 07:27:50 GMT
    EXPECT_EQ(parse_retry_after("", now), 0);
    EXPECT_EQ(parse_retry_after("120", now), 120);
    EXPECT_EQ(parse_retry_after("99999999999999999999", now), 999'999);
    EXPECT_EQ(parse_retry_after("Wed, 21 Oct 2015 07:28:00 GMT", now), 10);
    EXPECT_EQ(parse_retry_after("Wed, 21 Oct 2015 07:27:00 GMT", now), 0);
    EXPECT_EQ(parse_retry_after("soon", now), 0);
    EXPECT_EQ(parse_retry_after("-5", now), 0);
}

struct Choosing {
    Clockwork clock;
    HostOptions host;
    std::vector<Endpoint> list;
    Choosing() {
        for (const char *url : {"a", "b", "c", "origin"}) {
            Endpoint e;
            e.url = url;
            e.mirror = e.url != "origin";
            list.push_back(e);
        }
    }
    std::string order(Purpose purpose, bool explore = false, uint64_t size = 10 << 20) {
        std::string out;
        for (const Endpoint &e : choose(list, host, purpose, size, clock.health, explore))
            out += (out.empty() ? "" : " ") + e.url;
        return out;
    }
    void measured(const std::string &url, int64_t latency_ms, uint64_t bytes_per_second) {
        clock.health.answered(url, latency_ms * 1'000'000);
        clock.health.served(url, bytes_per_second, 1'000'000'000);
    }
};

TEST(OciChoice, OrderRightsAndHealth) {
    Choosing c;
    EXPECT_EQ(c.order(Purpose::kTag), "a b c origin");
    c.list[0].rights.resolve_tags = false;
    c.list[1].rights.pull = false;
    c.list[2].blocked = true;
    EXPECT_EQ(c.order(Purpose::kTag), "b origin");
    EXPECT_EQ(c.order(Purpose::kBytes), "a origin");
    c.clock.health.failed("a", Fault::kFailed, "");
    EXPECT_EQ(c.order(Purpose::kBytes), "origin a"); // asked last, but asked
    c.clock.pass(5);
    EXPECT_EQ(c.order(Purpose::kBytes), "a origin");
}

TEST(OciChoice, MeasuredIsByExpectedTimeAndMeasuresAgain) {
    Choosing c;
    c.host.measured = true;
    c.measured("a", 10, 1 << 20);
    c.measured("b", 200, 50 << 20);
    c.measured("c", 210, 49 << 20); // about as fast as b
    c.measured("origin", 1, 500 << 20);
    EXPECT_EQ(c.order(Purpose::kBytes), "b c a origin");
    EXPECT_EQ(c.order(Purpose::kTag), "a b c origin"); // a small answer: latency counts
    c.host.spread_origin = true;
    EXPECT_EQ(c.order(Purpose::kBytes), "origin b c a");
    c.host.spread_origin = false;
    EXPECT_EQ(c.order(Purpose::kBytes, true), "b c a origin"); // all measured a moment ago
    c.clock.pass(3600);
    EXPECT_EQ(c.order(Purpose::kBytes, true), "b c a origin"); // b is measured again where it stands
    EXPECT_EQ(c.order(Purpose::kBytes, true), "c b a origin");
    EXPECT_EQ(c.order(Purpose::kBytes, true), "a b c origin");
    EXPECT_EQ(c.order(Purpose::kBytes, true), "b c a origin");
}

TEST(OciChoice, RangesGoToTheLeastBusyForItsSpeed) {
    Choosing c;
    std::vector<std::unique_ptr<Health::InFlight>> flying;
    std::map<std::string, int> ranges;
    for (int i = 0; i < 6; ++i) {
        const std::string first =
            choose(c.list, c.host, Purpose::kRange, 1 << 20, c.clock.health, false)[0].url;
        ++ranges[first];
        flying.push_back(std::make_unique<Health::InFlight>(c.clock.health, first));
    }
    EXPECT_EQ(ranges, (std::map<std::string, int>{{"a", 2}, {"b", 2}, {"c", 2}}));
    flying.clear();
    c.measured("a", 10, 40 << 20);
    c.measured("b", 10, 10 << 20);
    c.measured("c", 10, 10 << 20);
    ranges.clear();
    for (int i = 0; i < 6; ++i) {
        const std::string first =
            choose(c.list, c.host, Purpose::kRange, 1 << 20, c.clock.health, false)[0].url;
        ++ranges[first];
        flying.push_back(std::make_unique<Health::InFlight>(c.clock.health, first));
    }
    EXPECT_EQ(ranges, (std::map<std::string, int>{{"a", 4}, {"b", 1}, {"c", 1}}));
    c.clock.health.failed("a", Fault::kFailed, "");
    EXPECT_EQ(c.order(Purpose::kRange).substr(0, 1), "b");
    for (const char *url : {"b", "c"})
        c.clock.health.failed(url, Fault::kFailed, "");
    EXPECT_EQ(c.order(Purpose::kRange).substr(0, 6), "origin"); // no mirror works
}

} // namespace
