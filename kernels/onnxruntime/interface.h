/* What the operator uses of onnxruntime's C interface: two tables of functions.
 *
 * onnxruntime hands its functions over as a table whose entries keep their places in all later releases, and takes an
 * operator as such a table. With the places written down here, no headers of a release are needed, which the wheels of
 * onnxruntime do not have. Version 17 of the interface, which came with onnxruntime 1.17, has all entries used here.
 */
#ifndef VIMZOO_ONNXRUNTIME_INTERFACE_H
#define VIMZOO_ONNXRUNTIME_INTERFACE_H

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace onnxruntime {

enum { VERSION = 17 };
enum Type { FLOAT = 1, INT32 = 6, INT64 = 7 };
enum Presence { REQUIRED, OPTIONAL };
enum { FAIL = 1 };

/* Objects of onnxruntime's, known by address alone; a status of nullptr is success. */
using Object = void;
using Status = void;

/* Places in the table of functions. */
enum Place {
    CREATE_STATUS = 0,
    STATUS_MESSAGE = 2,
    CREATE_DOMAIN = 26,
    ADD_TO_DOMAIN = 27,
    ADD_DOMAIN = 28,
    TENSOR_DATA = 51,
    AXES = 61,
    SHAPE = 62,
    TENSOR_INFO = 65,
    ATTRIBUTE_FLOAT = 85,
    ATTRIBUTE = 86,
    INPUT_COUNT = 88,
    INPUT = 90,
    OUTPUT = 91,
    RELEASE_STATUS = 93,
    RELEASE_TENSOR_INFO = 99,
    ATTRIBUTE_ARRAY = 163,
    NODE_INPUT_COUNT = 230,
    CONSTANT_INPUT = 249,
    PARALLEL_FOR = 274,
};

class Functions {
public:
    Functions() = default;
    explicit Functions(void *const *table) : table(table) {}

    /* The function at a place; arguments must have its very types. */
    template <class Result, class... Arguments> Result call(Place place, Arguments... arguments) const {
        return reinterpret_cast<Result (*)(Arguments...)>(table[place])(arguments...);
    }

    /* The same for functions that return a status: a failure is thrown. */
    template <class... Arguments> void operator()(Place place, Arguments... arguments) const {
        Status *status = call<Status *>(place, arguments...);
        if (!status) return;
        const std::string message = call<const char *>(STATUS_MESSAGE, static_cast<const Status *>(status));
        call<void>(RELEASE_STATUS, status);
        throw std::runtime_error(message);
    }

private:
    void *const *table = nullptr;
};

/* What is handed to a library that is registered. */
struct Base {
    void *const *(*functions)(uint32_t version);
    const char *(*release)();
};

/* An operator, with the entries of version 17 in their order. */
struct Operator {
    uint32_t version = VERSION;
    void *(*create)(const Operator *, void *const *, const Object *) = nullptr;
    const char *(*name)(const Operator *) = nullptr;
    const char *(*provider)(const Operator *) = nullptr;
    Type (*input_type)(const Operator *, size_t) = nullptr;
    size_t (*inputs)(const Operator *) = nullptr;
    Type (*output_type)(const Operator *, size_t) = nullptr;
    size_t (*outputs)(const Operator *) = nullptr;
    void (*compute)(void *, Object *) = nullptr;
    void (*destroy)(void *) = nullptr;
    Presence (*input_presence)(const Operator *, size_t) = nullptr;
    Presence (*output_presence)(const Operator *, size_t) = nullptr;
    int (*input_memory)(const Operator *, size_t) = nullptr;
    int (*variadic[4])(const Operator *) = {}; /* least number and sameness of types, of inputs and of outputs */
    Status *(*create_safely)(const Operator *, void *const *, const Object *, void **) = nullptr;
    Status *(*compute_safely)(void *, Object *) = nullptr;
    Status *(*infer_shape)(const Operator *, Object *) = nullptr;
    int (*first_version)(const Operator *) = nullptr;
    int (*last_version)(const Operator *) = nullptr;
    size_t (*in_place)(int **, int **) = nullptr;
    void (*release_in_place)(int *, int *) = nullptr;
    size_t (*aliases)(int **, int **) = nullptr;
    void (*release_aliases)(int *, int *) = nullptr;
};

}  // namespace onnxruntime

#endif
