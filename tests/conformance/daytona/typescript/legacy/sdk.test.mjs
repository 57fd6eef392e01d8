import * as sdk from "@daytonaio/sdk";
import { suite } from "../suite.mjs";

suite(sdk);
