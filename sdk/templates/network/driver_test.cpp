// What the driver decides without engine and kernel: subnets and addresses. Links, leases and kills are
// tested by gantry-plugin-check.
#include "call.h"
#include "driver.h"

int main() {
    using gantry::Leases4;
    const TestCall call;
    gantry::NetworkSpec spec;
    spec.name = "test";
    EXPECT(Leases4::settle(spec, "198.18.64.7/20", "", "").subnet.text() == "198.18.64.0/20");
    spec.subnets = {{"10.1.0.0/16", "10.1.0.1", "10.1.2.0/24"}};
    EXPECT(Leases4::settle(spec, "198.18.64.0/20", "", "").range.text() == "10.1.2.0/24");
    spec.subnets[0].range = "10.2.0.0/24";
    EXPECT(status_of([&] { Leases4::settle(spec, "", "", ""); }) == GANTRY_INVALID_ARGUMENT);
    EXPECT(status_of([] { @CLASS@("not a subnet"); }) == GANTRY_INVALID_ARGUMENT);
    EXPECT(Leases4::mac_of(0x0a010005) == "02:42:0a:01:00:05");
    @CLASS@ driver("198.18.64.0/20");
    EXPECT(!driver.caps(call).ports && driver.publish(call, "x", {}, {}).empty());
    EXPECT(status_of([&] { driver.publish(call, "x", {}, {{}}); }) == GANTRY_UNSUPPORTED);
    EXPECT(status_of([&] { driver.attach(call, {}); }) == GANTRY_INVALID_ARGUMENT);
}
