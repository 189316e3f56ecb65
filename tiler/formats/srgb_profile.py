"""An ICC profile that says "these pixels are sRGB": always the same bytes.

Little CMS puts today's date in its own, so a file would differ from run to run. This one is of version 4, with the
standard's matrix and one curve for the three channels, 520 bytes; the tests read it with Little CMS and compare it with
the numbers of the standard.
"""

import zlib
from base64 import b85decode

_PACKED = (
    "c-obbze~eV5XV1lm5NjxbZ~IUP`3)Ai=)(`i#S9Dt5cdLt&pZ6Ns(?2f@`6JqdyiGXI%^a0|iA8#MxQVMN7Qb2rYtw-{Zae@a5id"
    "+=Jv8qLCG-xuLHY^4fNBM@x4}Nc3fxfybYEzmIEg=lQ?J%T{1Y{*;q7JwJqmCcL&EdWs$4X|rmSg%5;tz6>aQsr*XJ9mS=X?-cu+"
    "`l|4=uvQu3(h%32hWR~%nm%K>TN{$qK4uBfDUkoAW}#oRP8|(XZjUBDdsL_rk`uQf9W2SV_?Co2Q|<NVz5;t`G47tp!{}2Kz0N_p"
    "4ZT(reVj#6?;KK(&~XRv>!+~%CVp$+m5$;12xcAzUiJhg58>*@Gkl|OrQ{@S8(uD8q6kx6`GVaq|BqPx"
)


def srgb_profile() -> bytes:
    """Return the profile."""
    return zlib.decompress(b85decode(_PACKED))
