// Address pool and parsers of the bridge driver: what is refused, what goes round, what persists.
#include "core/base/cancel.h"
#include "plugins/net-bridge/addresses.h"
#include "plugins/net-bridge/ports.h"

#include <filesystem>
#include <gtest/gtest.h>
#include <set>

using namespace gantry;
using namespace gantry::bridge;

namespace {

struct Folder {
    std::string path = (std::filesystem::temp_directory_path() / "gantry-leases-XXXXXX").string();
    Folder() { EXPECT_NE(mkdtemp(path.data()), nullptr); }
    ~Folder() { std::filesystem::remove_all(path); }
    std::string file() const { return path + "/leases"; }
};

Leases make(const CallScope &call, const Folder &folder, const std::string &subnet,
            const std::string &subnet6 = "") {
    const Cidr c = parse_cidr(subnet, "subnet");
    std::optional<Cidr> c6;
    Address gateway6;
    if (!subnet6.empty()) {
        c6 = parse_cidr(subnet6, "subnet");
        gateway6 = nth_address(*c6, 1);
    }
    return Leases(call, "net", folder.file(), c, nth_address(c, 1), c, c6, gateway6);
}

ErrorClass class_of(const std::function<void()> &work) {
    try {
        work();
    } catch (const Error &e) {
        return e.error_class();
    }
    return ErrorClass(GANTRY_OK);
}

} // namespace

TEST(Cidr, ClearsHostBitsAndComparesPrefixes) {
    const Cidr c = parse_cidr("10.88.3.4/22", "subnet");
    EXPECT_EQ(c.text(), "10.88.0.0/22");
    EXPECT_TRUE(c.contains(parse_address("10.88.3.255", "x")));
    EXPECT_FALSE(c.contains(parse_address("10.88.4.0", "x")));
    EXPECT_FALSE(c.contains(parse_address("::1", "x")));
    EXPECT_TRUE(c.overlaps(parse_cidr("10.0.0.0/8", "x")));
    EXPECT_FALSE(c.overlaps(parse_cidr("10.88.4.0/24", "x")));
    EXPECT_EQ(nth_address(parse_cidr("10.88.0.0/16", "x"), 256).text(), "10.88.1.0");
}

TEST(Cidr, RefusesWhatIsNone) {
    for (const char *bad : {"", "10.88.0.0", "10.88.0.0/", "10.88.0.0/33", "10.88.0.0/-1", "10.88.0.0/0x8",
                            "a/8", "10.88.0/16", "fd00::/129", "10.88.0.0/8 "})
        EXPECT_EQ(class_of([&] { parse_cidr(bad, "subnet"); }), ErrorClass::kInvalidArgument) << bad;
}

TEST(Mac, FollowsTheAddress) {
    EXPECT_EQ(mac_of(parse_address("10.88.0.5", "x")), "02:42:0a:58:00:05");
    for (const char *bad :
         {"", "02:42:0a:58:00", "03:42:0a:58:00:05", "02:42:0a:58:00:0g", "02:42:0a:58:00:05:06"})
        EXPECT_EQ(class_of([&] { parse_mac(bad); }), ErrorClass::kInvalidArgument) << bad;
}

TEST(PortRange, Parses) {
    EXPECT_EQ(parse_port_range("32768-60999"), (PortRange{32768, 60999}));
    EXPECT_EQ(parse_port_range("80"), (PortRange{80, 80}));
    for (const char *bad : {"", "-", "0", "1-", "-5", "70000", "5-4", "1-65536", "a-b", "1-2-3", "+1", " 1"})
        EXPECT_EQ(class_of([&] { parse_port_range(bad); }), ErrorClass::kInvalidArgument) << bad;
}

TEST(Leases, GivesEveryAddressOnceAndThenNoSpace) {
    const Folder folder;
    const CallScope call;
    Leases leases = make(call, folder, "10.9.8.0/29");
    std::set<std::string> seen;
    for (int i = 0; i < 5; ++i)
        seen.insert(leases.lease(call, "e" + std::to_string(i), "", "").v4.text());
    // .0 is the network, .1 the gateway, .7 the broadcast address
    EXPECT_EQ(seen, (std::set<std::string>{"10.9.8.2", "10.9.8.3", "10.9.8.4", "10.9.8.5", "10.9.8.6"}));
    EXPECT_EQ(class_of([&] { leases.lease(call, "e9", "", ""); }), ErrorClass::kNoSpace);
    leases.release(call, "e1");
    EXPECT_EQ(leases.lease(call, "e9", "", "").v4.text(), "10.9.8.3");
}

TEST(Leases, GoesRoundBeforeAnAddressReturns) {
    const Folder folder;
    const CallScope call;
    Leases leases = make(call, folder, "10.9.8.0/29");
    EXPECT_EQ(leases.lease(call, "a", "", "").v4.text(), "10.9.8.2");
    leases.release(call, "a");
    EXPECT_EQ(leases.lease(call, "b", "", "").v4.text(), "10.9.8.3");
}

TEST(Leases, SurvivesTheEngineAndStaysTheSameForTheSameEndpoint) {
    const Folder folder;
    const CallScope call;
    std::string first;
    {
        Leases leases = make(call, folder, "10.9.8.0/24", "fd00:9::/64");
        const auto pair = leases.lease(call, "a", "", "");
        first = pair.v4.text();
        EXPECT_EQ(pair.v6.text(), "fd00:9::2");
        EXPECT_EQ(leases.lease(call, "a", "", "").v4.text(), first);
    }
    Leases again = make(call, folder, "10.9.8.0/24", "fd00:9::/64");
    EXPECT_EQ(again.lease(call, "a", "", "").v4.text(), first);
    EXPECT_NE(again.lease(call, "b", "", "").v4.text(), first);
    again.settle(call, {});
    EXPECT_EQ(again.used(), 0u);
    EXPECT_EQ(make(call, folder, "10.9.8.0/24").used(), 0u);
}

TEST(Leases, WantedAddresses) {
    const Folder folder;
    const CallScope call;
    Leases leases = make(call, folder, "10.9.8.0/24");
    EXPECT_EQ(leases.lease(call, "a", "10.9.8.77", "").v4.text(), "10.9.8.77");
    EXPECT_EQ(class_of([&] { leases.lease(call, "b", "10.9.8.77", ""); }), ErrorClass::kAlreadyExists);
    EXPECT_EQ(class_of([&] { leases.lease(call, "b", "10.9.8.1", ""); }), ErrorClass::kAlreadyExists);
    EXPECT_EQ(class_of([&] { leases.lease(call, "b", "10.9.9.1", ""); }), ErrorClass::kInvalidArgument);
    EXPECT_EQ(class_of([&] { leases.lease(call, "b", "", "fd00::5"); }), ErrorClass::kInvalidArgument);
}
