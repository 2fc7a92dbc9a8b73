//! The overlay: VXLAN (RFC 7348) over ordinary UDP sockets.
//!
//! Nothing lives here yet. What will: `vtep` (a remote is an output like a port), `encap` (headers, segmentation of
//! inner super-frames into `UDP_SEGMENT` sends), `coalesce` (inner TCP merged on arrival) and `remote` (MAC to VTEP:
//! static, told, learned). It uses `switch` and nothing else.
