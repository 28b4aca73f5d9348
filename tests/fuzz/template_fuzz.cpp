// Any bytes as the argument of --format, over data of every JSON type.
#include "core/cli/template.h"

#include <boost/json.hpp>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    using namespace gantry::cli;
    static const boost::json::value kData = boost::json::parse(
        R"({"ID":"a1","Names":["x","y"],"Size":-7,"Big":1e300,"On":true,"Off":false,"No":null,)"
        R"("State":{"Pid":42,"Health":{"Log":[{"Output":"ok"}]}},"Networks":{"b":{"IP":"10.0.0.2"}},"Empty":[]})");
    try {
        const Template text(std::string(reinterpret_cast<const char *>(data), size));
        (void)text.execute(kData);
    } catch (const TemplateError &) {
        // refusing is the point
    }
    return 0;
}
