// Tags, referrers and searches, page by page.
#include "fault_server.h"
#include "oci_driver.h"

#include <gtest/gtest.h>

namespace {

using namespace gantry;
using oci::OciDriver;
using oci::Options;

struct ListCall {
    gantry_error_sink sink{};
    gantry_call raw{};
    ListCall() {
        raw.struct_size = sizeof raw;
        raw.cancel_fd = -1;
        raw.error = &sink;
        raw.subject = "";
    }
    operator Call() const { return Call(&raw); }
};

FaultReply body(std::string text, std::map<std::string, std::string> headers = {}) {
    return {200, std::move(text), std::move(headers), std::string::npos, false};
}
FaultReply status(int code) { return {code, "", {}, std::string::npos, false}; }

TEST(OciLists, TagsFollowLinksOnTheSameEndpointOnly) {
    FaultServer stranger([](const FaultRequest &) { return body(R"({"tags":["stolen"]})"); });
    FaultServer *self = nullptr;
    FaultServer server([&](const FaultRequest &r) {
        if (r.path.find("page=2") != std::string::npos)
            return body(R"({"tags":["c"]})",
                        {{"Link", "<" + self->url() + "/v2/a/tags/list?page=3>; rel=\"next\""}});
        if (r.path.find("page=3") != std::string::npos) // to another host: only its path counts
            return body(R"({"tags":["d"]})",
                        {{"Link", "<" + stranger.url() + "/v2/a/tags/list?page=4>; rel=\"next\""}});
        if (r.path.find("page=4") != std::string::npos) return body(R"({"tags":["e"]})");
        return body(R"({"tags":["a","b"]})", {{"Link", "</v2/a/tags/list?page=2>; rel=\"next\""}});
    });
    self = &server;
    OciDriver driver{Options{}};
    ListCall call;
    const std::vector<std::string> all{"a", "b", "c", "d", "e"};
    EXPECT_EQ(driver.tags(call, {server.host(), "a", "", ""}, std::nullopt), all);
    EXPECT_TRUE(stranger.seen().empty());
}

TEST(OciLists, TagsOfALinkInACircleEnd) {
    FaultServer server([&](const FaultRequest &r) {
        return body(R"({"tags":["a"]})", {{"Link", "<" + r.path + ">; rel=\"next\""}});
    });
    OciDriver driver{Options{}};
    ListCall call;
    EXPECT_EQ(driver.tags(call, {server.host(), "a", "", ""}, std::nullopt).size(), 1u);
}

const std::string kDigest = "sha256:" + std::string(64, 'c');

TEST(OciLists, ReferrersAsServed) {
    const std::string index = R"({"schemaVersion":2,  "manifests":[{"digest":"x"}]})";
    FaultServer server([&](const FaultRequest &) { return body(index); });
    OciDriver driver{Options{}};
    ListCall call;
    EXPECT_EQ(driver.referrers(call, {server.host(), "a/b", "", kDigest}, "application/x.sig+json", {}),
              index);
    EXPECT_EQ(server.seen().back().path,
              "/v2/a/b/referrers/" + kDigest + "?artifactType=application%2Fx.sig%2Bjson");
}

TEST(OciLists, ReferrersOfSeveralPagesAreOneIndex) {
    FaultServer server([&](const FaultRequest &r) {
        if (r.path.find("page=2") != std::string::npos) return body(R"({"manifests":[{"digest":"y"}]})");
        return body(R"({"schemaVersion":2,"manifests":[{"digest":"x"}]})",
                    {{"Link", "<" + r.path + "?page=2>; rel=\"next\""}});
    });
    OciDriver driver{Options{}};
    ListCall call;
    EXPECT_EQ(driver.referrers(call, {server.host(), "a/b", "", kDigest}, "", {}),
              R"({"schemaVersion":2,"manifests":[{"digest":"x"},{"digest":"y"}]})");
}

TEST(OciLists, RegistryWithoutReferrersIsNotFound) {
    for (const int code : {404, 405, 400, 200}) {
        FaultServer server([&](const FaultRequest &) {
            return code == 200 ? body("<html>nothing here</html>") : status(code);
        });
        OciDriver driver{Options{}};
        ListCall call;
        try {
            driver.referrers(call, {server.host(), "a/b", "", kDigest}, "", {});
            FAIL() << "no error";
        } catch (const Error &error) {
            EXPECT_EQ(error.error_class(), ErrorClass::kNotFound) << code << ": " << error.message();
        }
    }
}

TEST(OciLists, SearchOfTheHub) {
    FaultServer hub([](const FaultRequest &) {
        return body(R"({"results":[{"name":"nginx","description":"web\u001b[31m","star_count":7,
          "is_official":true,"is_automated":false},{"name":"x/nginx"},{"nothing":1},{"name":"third"}]})");
    });
    Options options;
    options.hosts["docker.io"].search_url = hub.url();
    OciDriver driver{options};
    ListCall call;
    const auto found = driver.search(call, "docker.io", "ngi nx", 2, std::nullopt);
    ASSERT_EQ(found.size(), 2u);
    EXPECT_EQ(found[0].name, "nginx");
    EXPECT_EQ(found[0].stars, 7);
    EXPECT_TRUE(found[0].official);
    EXPECT_EQ(found[0].description, "web [31m") << "control characters reach no terminal";
    EXPECT_EQ(hub.seen().back().path, "/v1/search?q=ngi%20nx&n=2");
}

TEST(OciLists, SearchOfACatalogue) {
    FaultServer server([&](const FaultRequest &r) {
        if (r.path.find("last=") == std::string::npos)
            return body(R"({"repositories":["team/Web","db"]})",
                        {{"Link", "</v2/_catalog?n=1000&last=db>; rel=\"next\""}});
        return body(R"({"repositories":["web2","webster"]})");
    });
    OciDriver driver{Options{}};
    ListCall call;
    const auto found = driver.search(call, server.host(), "WEB", 2, std::nullopt);
    ASSERT_EQ(found.size(), 2u);
    EXPECT_EQ(found[0].name, server.host() + "/team/Web");
    EXPECT_EQ(found[1].name, server.host() + "/web2");
}

} // namespace
