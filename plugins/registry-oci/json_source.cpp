// Distributions build the static Boost.JSON without -fPIC, which a shared object cannot link: the plugin
// compiles its own copy. The version script keeps its symbols inside.
#include <boost/json/src.hpp>
